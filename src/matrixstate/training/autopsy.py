"""Replays a step whose loss or gradient was not finite, in its precision and in float64, to find the op at fault."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from matrixstate.configs import read_yaml
from matrixstate.data import Batch
from matrixstate.errors import CheckpointError, ConfigError
from matrixstate.models import LanguageModel
from matrixstate.training.checkpoint import fill, read_tensors
from matrixstate.training.guard import BATCH, REPORT, WEIGHTS
from matrixstate.training.objective import compute_loss
from matrixstate.training.reading import decode_config
from matrixstate.training.runtime import Runtime
from matrixstate.training.text_config import TextRunConfig


@dataclass(frozen=True)
class Fault:
    """The first operation whose result is not finite although all of its inputs are."""

    phase: str
    """"forward" or "backward"."""
    op: str
    """The operation's name in PyTorch's dispatcher, such as aten.mm.default."""
    module: str
    """The submodule in whose forward it ran; "" outside all of them, as in the loss and the backward pass."""
    position: tuple[int, ...]
    """The index of the first non-finite entry of the result."""
    shape: tuple[int, ...]
    """The shape of the result."""
    value: str
    """That entry: "inf", "-inf" or "nan"."""
    largest_input: float
    """The largest magnitude in its inputs; nan for an operation without any."""


@dataclass(frozen=True)
class Autopsy:
    """The result of a replay. Keys are "float32" (the precision of training, which may be bfloat16) and "float64"."""

    step: int
    """Counted from 1."""
    loss: dict[str, float]
    fault: dict[str, Fault | None]
    """None where everything stayed finite."""

    @property
    def verdict(self) -> str:
        """The cause, in one sentence."""
        low, exact = self.fault["float32"], self.fault["float64"]
        if low is None:
            return (
                "the replay stayed finite in float32: the cause lies outside the model (hardware, or another backend)"
            )
        where = f"{low.phase}, {low.module or 'the loss'}: {low.op} at {list(low.position)} gave {low.value}"
        if exact is None:
            return f"{where}; float64 stays finite, so the number format overflowed"
        return f"{where}; float64 fails too, at {exact.op} in {exact.module or 'the loss'}: the mathematics diverges"


def perform_autopsy(bundle: Path) -> Autopsy:
    """Replays the step that `write_bundle` saved; costs two forward and backward passes of its batch.

    Args:
        bundle: the directory failures/step-N of a run.

    Raises:
        CheckpointError: the bundle is missing or damaged.
    """
    try:
        config = decode_config(read_yaml((bundle / "config.yaml").read_text("utf-8")))
        step = int(json.loads((bundle / REPORT).read_text(encoding="utf-8"))["step"])
    except OSError as error:
        raise CheckpointError(f"autopsy: expected a bundle in {bundle}: {error.strerror}") from error
    except (ConfigError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"autopsy: {bundle} is damaged: {' '.join(str(error).split())}") from error
    tensors = read_tensors(bundle / BATCH)
    if not {"tokens", "targets", "random"} <= tensors.keys() <= {*Batch._fields, "random", "random_device"}:
        raise CheckpointError(f"autopsy: {bundle / BATCH} must hold tokens, targets and random, got {sorted(tensors)}")
    # from before the step, so that dropout is replayed too; that of a GPU cannot be replayed here
    random = {name: tensors.pop(name) for name in ("random", "random_device") if name in tensors}
    losses, faults = {}, {}
    for name, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        model = LanguageModel(config.initial_model())
        fill(dict(model.named_parameters()), read_tensors(bundle / WEIGHTS), bundle / WEIGHTS)
        runtime = Runtime(config.training.precision if dtype == torch.float32 else "float32")
        runtime.random_state = random
        # with dropout, the parts of a batch draw other masks than the whole
        parts = Batch(**tensors).parts(config.training.accumulate if isinstance(config, TextRunConfig) else 1)
        losses[name], faults[name] = _replay(model.to(dtype).train(), parts, runtime)
    return Autopsy(step, losses, faults)


def _replay(model: LanguageModel, parts: Sequence[Batch], runtime: Runtime) -> tuple[float, Fault | None]:
    """The loss of one training step and the first fault in it."""
    total = 0.0
    with _FaultFinder(model) as finder:
        for part in parts:
            finder.phase = "forward"
            with runtime.autocast():
                logits, _ = model(part.tokens, mask=part.mask, reset=part.reset)
            loss, auxiliary = compute_loss(model, logits, part)
            finder.phase = "backward"
            if finder.fault is None:  # else the backward pass only spreads the fault
                (loss if auxiliary is None else loss + auxiliary).backward()
            total += float(loss.detach()) / len(parts)
    return total, finder.fault


class _FaultFinder(TorchDispatchMode):
    """Checks the result of every operation until one is not finite."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.phase, self.fault = "forward", None
        self._stack: list[str] = []  # names of the submodules whose forward is running, innermost last
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: self._stack.append(name))
            module.register_forward_hook(self._leave)

    def _leave(self, *_: Any) -> None:
        self._stack.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.fault is None:
            self.fault = self._check(str(func), args, result)
        return result

    def _check(self, op: str, args: tuple, result: Any) -> Fault | None:
        inputs = [t for t in _tensors(args) if t.is_floating_point() and t.numel()]
        if any(not t.isfinite().all() for t in inputs) or _may_be_infinite(op):
            return None
        for out in _tensors(result):
            if out.is_floating_point() and not out.isfinite().all():
                position = tuple((~out.isfinite()).nonzero()[0].tolist())
                largest = max((float(t.abs().max()) for t in inputs), default=math.nan)
                module = self._stack[-1] if self._stack else ""
                return Fault(self.phase, op, module, position, tuple(out.shape), str(float(out[position])), largest)
        return None


def _may_be_infinite(op: str) -> bool:
    """Whether an operation may give such values on purpose: attention fills its masks with -inf, `empty` anything."""
    return any(word in op for word in ("masked_fill", "fill", "where", "empty", "full", "new_"))


def _tensors(value: Any) -> list[Tensor]:
    """The tensors among the arguments or results of an operation, which may be nested lists."""
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in _tensors(part)] if isinstance(value, list | tuple) else []
