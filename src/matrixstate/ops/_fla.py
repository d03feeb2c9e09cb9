"""What the backends over flash-linear-attention share: which inputs its kernels take, and how they are called.

Only modules named `kernel_fla` import this module; the dispatcher imports them when it considers the backend. The
library itself is imported at the first call, which takes seconds. The arguments are those of fla-core 0.6: its layout
of tensors is that of this package, its decays are natural logarithms too, and `scale`, by which it multiplies queries,
is 1.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from os import environ
from typing import Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from matrixstate.ops._checks import full_precision
from matrixstate.ops._operators import refuse_tangents


@dataclass(frozen=True)
class Call:
    """One of its functions, and the arguments that an op's inputs become."""

    function: str
    """Its module in `fla.ops`, and its name."""
    sequence: Mapping[str, Tensor | None]
    """The arguments with a time axis, [B, T, ...]; [B, T·m, ...] where a step has m rows."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Documents:
    """The documents of a batch, which its kernels take as one sequence after another, [1, B·T, ...]."""

    bounds: Tensor
    """[N + 1] int64 on the CPU: where each of the N documents starts, and B·T."""
    first: Tensor
    """[B] int64: the document in which each row of the batch begins."""
    last: Tensor
    """[B] int64: the document in which each row ends."""

    @classmethod
    def of(cls, reset: Tensor) -> "Documents":
        """From reset [B, T], T >= 1. It is copied to the CPU, which waits until the device has computed it."""
        starts = reset.to("cpu", copy=True)
        starts[:, 0] = True
        of_row = starts.sum(dim=1)
        ends = of_row.cumsum(dim=0)
        begins = starts.flatten().nonzero().squeeze(1)
        bounds = torch.cat([begins, begins.new_tensor([reset.numel()])])
        return cls(bounds, (ends - of_row).to(reset.device), (ends - 1).to(reset.device))


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """Why its kernels cannot run such inputs; None if they can. Details that both ops have are answered here."""
    if device != "cuda":
        return f"needs a GPU, got {device}"
    if dtype != torch.bfloat16:
        return f"needs torch.bfloat16 (it multiplies float32 in TF32 or not at all), got {dtype}"
    if environ.get("TRITON_INTERPRET") == "1":
        return "runs on a GPU alone, got TRITON_INTERPRET=1 in the environment"
    if find_spec("triton") is None:
        return "triton is not installed"
    if "deterministic" in details:
        return "has no deterministic algorithms (it chooses tiles by measuring them)"
    if "odd width" in details:
        return "needs even widths of keys and values"  # for odd ones Triton has compiled a kernel of it wrongly
    if "decay per head" in details and _errs_on_hopper():
        return "needs Triton 3.7.1 or later for a decay per head on a Hopper GPU (its gradient is wrong before)"
    return None


def per_channel(decay: Tensor | None, k: Tensor) -> Tensor:
    """Logarithms of decays [B, T, H, K] in float32, from those of heads or channels, or from None for no decay."""
    if decay is None:
        return k.new_zeros(k.shape, dtype=torch.float32)
    return decay if decay.ndim == 4 else decay[..., None].expand_as(k)


def _errs_on_hopper() -> bool:
    """Whether the library's own check would raise in the backward pass: its issue 640, in NVIDIA's compiler."""
    if torch.version.hip is not None or not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        return False
    version = TorchVersion(import_module("triton").__version__)
    return TorchVersion("3.4.0") <= version < TorchVersion("3.7.1")


def run(op: str, call: Call, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """y [B, T, H, V] in the dtype of v and the last state [B, H, K, V]; `op` is named in errors.

    With `reset` the host waits for the device once, and the library, whose grids depend on the number of chunks, again.
    """
    refuse_tangents(op, (*call.sequence.values(), *call.options.values(), state), "fla")
    function = load(call.function)
    with full_precision(state):
        if reset is None:
            y, last = function(**arguments(call, state))
        else:
            documents = Documents.of(reset)
            y, states = function(**arguments_of_documents(call, state, reset, documents))
            y, last = y.view(*reset.shape, *y.shape[2:]), states.index_select(0, documents.last)
    for output in (y, last):
        if output.requires_grad:
            output.register_hook(partial(_differentiable_once, op))
    return y, last


def load(function: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """A function of `fla.ops`, by its module and name."""
    module, _, name = function.rpartition(".")
    return getattr(import_module(f"fla.ops.{module}"), name)


def arguments(call: Call, state: Tensor) -> dict[str, Any]:
    """All keyword arguments of a call that begins with `state` [B, H, K, V]."""
    common = {"scale": 1.0, "initial_state": state, "output_final_state": True}
    return {**call.sequence, **call.options, **common}


def arguments_of_documents(call: Call, state: Tensor, reset: Tensor, documents: Documents) -> dict[str, Any]:
    """As `arguments`, with the batch as one sequence of documents.

    Each document has a first state: zeros, but for those that continue a row's `state`.
    """
    sequence = {name: None if x is None else x.flatten(0, 1)[None] for name, x in call.sequence.items()}
    begun = state.masked_fill(reset[:, 0, None, None, None], 0)
    states = state.new_zeros(len(documents.bounds) - 1, *state.shape[1:]).index_copy(0, documents.first, begun)
    bounds = {"cu_seqlens": documents.bounds.to(state.device), "cu_seqlens_cpu": documents.bounds}
    return arguments(Call(call.function, sequence, call.options), states) | bounds


def _differentiable_once(op: str, gradient: Tensor) -> None:
    """Raises where a backward pass is to be differentiated: the library would leave its own part out of the result."""
    if torch.is_grad_enabled():
        raise NotImplementedError(f"{op}: backend fla has no second derivatives; backend='reference' has")
