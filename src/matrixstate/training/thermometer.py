"""The state thermometer: norm, growth, rank and saturation of the states, measured every few steps of training."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from matrixstate.layers.forget_gate import ForgetGate, LogForgetGate
from matrixstate.layers.mixer import StateMatrices
from matrixstate.models import LanguageModel, ModelState

EVERY = 10  # steps between readings
# natural logarithms of a state's largest entry
LIMIT = math.log(torch.finfo(torch.float32).max)
WARM = math.log(1e6)  # smaller states give no warning, however fast they grow
HOT = LIMIT / 2  # larger ones always do: the squares in a norm overflow
AHEAD = 300  # those in between do, if they are expected to overflow within so many steps


@dataclass(frozen=True)
class Reading:
    """A layer's state after the last token of a batch: one number per head, averaged over the batch."""

    layer: int
    log_norm: tuple[float, ...]
    """Natural logarithm of the Frobenius norm, with the scale of a rescaled state included."""
    growth: tuple[float, ...] | None
    """Mean increase of `log_norm` per token; only for products, which start as the identity."""
    rank: tuple[float, ...]
    """Effective rank of the first sequence's state: exp of the entropy of its normalized squared singular values."""
    saturated: tuple[float, ...] | None
    """Share of the entries of magnitude above 0.9; only for states bounded by a tanh."""
    forget: tuple[float, ...] | None
    """Mean of the forget gate over all tokens; only for mixers that have one."""
    log_largest: float
    """Natural logarithm of the largest entry as stored, over batch and heads; float32 overflows at 88.7."""

    def data(self) -> dict[str, Any]:
        """Plain data for the log, to four digits; null for what is not finite."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        return {k: _short(v) if isinstance(v, tuple | float) else v for k, v in values.items()}


def _short(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_short(v) for v in value]
    return float(f"{value:.4g}") if math.isfinite(value) else None


class _Gate:
    """The forget gate of a layer in the last forward pass that was recorded."""

    mean: Tensor | None = None  # [H]


class Thermometer:
    """Measures the states of a model in training. Forget gates are recorded, by hooks, only in steps that are `due`."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self._listening = model, False
        self._gates = [_Gate() for _ in model.layers]
        for gate, block in zip(self._gates, model.layers, strict=True):
            for module in block.modules():
                if isinstance(module, ForgetGate):
                    module.register_forward_hook(self._record_in(gate))

    def _record_in(self, gate: _Gate) -> Callable[[torch.nn.Module, Any, Tensor], None]:
        def record(module: torch.nn.Module, inputs: Any, output: Tensor) -> None:
            # compiled code always records: if it asked whether to, it would be compiled for either answer
            if torch.compiler.is_compiling() or self._listening:
                values = output.detach().exp() if isinstance(module, LogForgetGate) else output.detach()
                gate.mean = values.flatten(0, -2).mean(dim=0)

        return record

    def due(self, step: int) -> bool:
        """Whether the states of this step, counted from 1, are measured; call it before the forward pass."""
        self._listening = step % EVERY == 0 or step == 1
        return self._listening

    @torch.no_grad()
    def read(self, state: ModelState, length: int) -> list[Reading]:
        """The readings of a step that is due, one per layer with a matrix state.

        Args:
            state: of the model after the step's forward pass, before the weights changed.
            length: tokens that led to it.
        """
        self._listening, readings = False, []
        for layer, (block, part, gate) in enumerate(zip(self._model.layers, state.blocks, self._gates, strict=True)):
            matrices = None if block.mixer is None else block.mixer.state_matrices(part)
            if matrices is not None:
                readings.append(_reading(layer, matrices, length, gate.mean))
        return readings


def _reading(layer: int, state: StateMatrices, length: int, gate: Tensor | None) -> Reading:
    matrix, tiny = state.matrix.detach().float(), torch.finfo(torch.float32).tiny
    norm = torch.linalg.matrix_norm(matrix).clamp_min(tiny).log()  # [B, H]
    log_norm = (norm if state.log_scale is None else norm + state.log_scale).mean(dim=0)
    growth = (log_norm - math.log(matrix.shape[-1]) / 2) / max(length, 1)  # the identity has norm sqrt(D)
    largest = float(matrix.abs().amax().clamp_min(tiny).log())
    return Reading(
        layer,
        _numbers(log_norm),
        _numbers(growth) if state.product else None,
        _effective_rank(matrix[0]) if math.isfinite(largest) else (math.nan,) * matrix.shape[1],
        _numbers((matrix.abs() > 0.9).float().mean(dim=(0, 2, 3))) if state.squashed else None,
        None if gate is None else _numbers(gate),
        largest,
    )


def _effective_rank(matrices: Tensor) -> tuple[float, ...]:
    """Of matrices [H, R, D]. Source: Roy and Vetterli, 2007, with squared singular values."""
    shares = torch.linalg.svdvals(matrices).square()
    shares = shares / shares.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return _numbers(torch.special.entr(shares).sum(dim=-1).exp())


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())


class OverflowWatch:
    """Warns when a stored state is about to overflow float32, by extrapolating its growth over the last readings."""

    def __init__(self) -> None:
        self._history: list[tuple[int, float]] = []  # (step, log of the largest entry), the last ten
        self._quiet_until = 0

    def check(self, step: int, readings: Sequence[Reading]) -> str | None:
        """The warning that these readings give, or None; at most one in a hundred steps."""
        if not readings:
            return None
        worst = max(readings, key=lambda reading: reading.log_largest)
        now = worst.log_largest
        self._history = [*self._history[-9:], (step, now)]
        first, then = self._history[0]
        elapsed = step - first
        rate = (now - then) / elapsed if elapsed > 0 else 0.0  # growth of the logarithm per step
        left = (LIMIT - now) / rate if rate > 0 else math.inf
        hot = not math.isfinite(now) or now > HOT or (now > WARM and left < AHEAD)
        if not hot or step < self._quiet_until:
            return None
        self._quiet_until = step + 100
        when = f"; at this rate float32 overflows in about {left:.0f} steps" if math.isfinite(left) else ""
        size = f"10^{now / math.log(10):.0f}" if math.isfinite(now) else "infinity"
        return f"step {step}: the state of layer {worst.layer} has reached {size}{when}"
