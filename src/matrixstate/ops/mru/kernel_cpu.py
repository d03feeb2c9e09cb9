"""The fused kernel of the MRU (csrc/mru/) as PyTorch operators, and that of one token through a layer."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from matrixstate import _native
from matrixstate.ops import _cpu
from matrixstate.ops._operators import (
    call_checked,
    dense,
    differentiable,
    differentiable_once,
    floats,
    fresh,
    needs_gradient,
    operator,
    plain,
)
from matrixstate.ops.matrix import ScaledState
from matrixstate.ops.mru.flops import scan_flops
from matrixstate.ops.mru.weights import MRUWeights, State

__all__ = ["mru_scan", "mru_step", "unsupported"]

# Each in the order of csrc/mru/mru.h.
BUILDERS = ("reshape_identity", "ldu", "cayley")
READOUTS = ("state", "normalised", "bounded")


def unsupported(
    device: str, dtype: torch.dtype, builder: str = "ldu", method: str = "auto", *details: str
) -> str | None:
    if builder not in BUILDERS:
        return f"makes the matrices of {', '.join(BUILDERS)}, not of {builder}"
    if method not in ("auto", "sequential"):
        return f"multiplies one step after another, which is not method {method!r}"
    return _cpu.unsupported(device, dtype)


def mru_scan(
    elements: Tensor,
    down: Tensor,
    v: Tensor | None,
    decay: Tensor | None,
    state: State,
    reset: Tensor | None,
    mask: Tensor | None,
    builder: str,
    readout: str,
    bound: float,
    method: str,
) -> tuple[Tensor, State]:
    """As the reference, in one kernel."""
    matrix, exponent = state if isinstance(state, tuple) else (state, None)
    decay = None if decay is None else decay.to(torch.float32)
    inputs = elements, v, decay, down.to(torch.float32), matrix
    options = builder, readout, bound, needs_gradient(*inputs)
    y, last, last_exponent, *_ = torch.ops.matrixstate.mru_scan_cpu(*inputs, exponent, reset, mask, *options)
    return y, last if exponent is None else ScaledState(last, last_exponent)


def mru_step(
    elements: Tensor,
    value: Tensor | None,
    forget: Tensor | None,
    gate: Tensor | None,
    weights: MRUWeights,
    past: Tensor | None,
    state: State,
) -> tuple[Tensor, Tensor | None, State]:
    """As the reference. Called directly: PyTorch's dispatcher costs more than the step."""
    matrix, exponent = state if isinstance(state, tuple) else (state, None)
    builder, _, readout, bound, *parameters, eps, balanced = weights
    dtype = elements.dtype if weights.norm is None else weights.norm.dtype
    y = torch.empty((len(elements), 1, weights.down.numel()), dtype=dtype)
    last, after = None if past is None else torch.empty(past.shape), torch.empty(matrix.shape)
    after_exponent = None if exponent is None else torch.empty(exponent.shape, dtype=torch.int32)
    options = BUILDERS.index(builder), READOUTS.index(readout), bound, balanced
    inputs = *plain(elements, value, forget, gate), *options, *floats(*parameters), eps, *plain(past, matrix, exponent)
    call_checked(_native.mru_step, *inputs, y, last, after, after_exponent)
    return y, last, after if after_exponent is None else ScaledState(after, after_exponent)


def _outputs(elements: Tensor, down: Tensor, state: Tensor, scaled: bool, save: bool) -> tuple[Tensor, ...]:
    B, T, H, D, C = *elements.shape[:3], *down.shape[1:]
    intervals = -(-T // _native.MRU_INTERVAL) if save else 0
    rows = B if scaled else 0
    return (
        fresh(elements, B, T, H, D, C),
        fresh(state),
        fresh(state, rows, H, dtype=torch.int32),
        fresh(state, B, H, intervals, D, D),
        fresh(state, rows, H, intervals, dtype=torch.int32),
    )


@operator("mru_scan_cpu")
def _forward(
    elements: Tensor,
    v: Tensor | None,
    decay: Tensor | None,
    down: Tensor,
    state: Tensor,
    exponent: Tensor | None,
    reset: Tensor | None,
    mask: Tensor | None,
    builder: str,
    readout: str,
    bound: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, the last state and its exponent, and for the backward pass the states every few steps and their exponents.

    Without `save` none are saved; without `exponent` nothing is rescaled and exponents are empty.
    """
    scaled = exponent is not None
    y, last, last_exponent, saved, saved_exponent = outputs = _outputs(elements, down, state, scaled, save)
    _native.mru_forward(
        *dense(elements, v, decay, down, reset, mask, state, exponent),
        *(BUILDERS.index(builder), READOUTS.index(readout), bound),
        *(y, last, last_exponent if scaled else None),
        *(saved if save else None, saved_exponent if save and scaled else None),
        torch.get_num_threads(),
    )
    return outputs  # type: ignore[return-value]


@operator("mru_scan_cpu_backward")
def _backward(
    elements: Tensor,
    v: Tensor | None,
    decay: Tensor | None,
    down: Tensor,
    reset: Tensor | None,
    mask: Tensor | None,
    saved: Tensor,
    saved_exponent: Tensor | None,
    builder: str,
    readout: str,
    bound: float,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of elements, v and decay (empty where there are none), down and the first state."""
    delements, dv, ddecay, ddown, dstate = gradients = _gradients(elements, v, decay, down, dlast)
    _native.mru_backward(
        *dense(elements, v, decay, down, reset, mask, saved, saved_exponent),
        *(BUILDERS.index(builder), READOUTS.index(readout), bound),
        *dense(dy, dlast),
        *(delements, None if v is None else dv, None if decay is None else ddecay, ddown, dstate),
        torch.get_num_threads(),
    )
    return gradients  # type: ignore[return-value]


def _gradients(elements: Tensor, v: Tensor | None, decay: Tensor | None, down: Tensor, state: Tensor) -> tuple:
    given = (elements, v, decay, down, state)
    return tuple(fresh(down, 0) if tensor is None else fresh(tensor) for tensor in given)


@torch.library.register_fake("matrixstate::mru_scan_cpu")
def _(elements, v, decay, down, state, exponent, reset, mask, builder, readout, bound, save):
    return _outputs(elements, down, state, exponent is not None, save)


@torch.library.register_fake("matrixstate::mru_scan_cpu_backward")
def _(elements, v, decay, down, reset, mask, saved, saved_exponent, builder, readout, bound, dy, dlast):
    return _gradients(elements, v, decay, down, dlast)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    elements, v, decay, down, _, exponent, reset, mask, *options, _ = inputs
    y, last, last_exponent, saved, saved_exponent = output
    ctx.options = options
    ctx.save_for_backward(elements, v, decay, down, reset, mask, saved, None if exponent is None else saved_exponent)
    ctx.mark_non_differentiable(last_exponent, saved_exponent)
    ctx.set_materialize_grads(False)
    ctx.like = y.shape, last.shape


def _differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None, *_: None) -> tuple:
    elements, v, decay, down = (saved := ctx.saved_tensors)[:4]
    y_shape, state_shape = ctx.like
    dy = elements.new_zeros(y_shape) if dy is None else dy
    dlast = down.new_zeros(state_shape) if dlast is None else dlast
    gradients = torch.ops.matrixstate.mru_scan_cpu_backward(*saved, *ctx.options, dy, dlast)
    delements, dv, ddecay, ddown, dstate = gradients
    wanted = delements, None if v is None else dv, None if decay is None else ddecay, ddown, dstate
    return *wanted, None, None, None, None, None, None, None


differentiable("mru_scan_cpu", _differentiate, _save_for_backward)
differentiable_once("mru_scan_cpu_backward", "mru_scan")


@register_flop_formula(torch.ops.matrixstate.mru_scan_cpu)
def _forward_flops(elements, v, decay, down, state, exponent, reset, mask, builder, *options, **shapes) -> int:
    return scan_flops(elements, down, builder)


@register_flop_formula(torch.ops.matrixstate.mru_scan_cpu_backward)
def _backward_flops(elements, v, decay, down, reset, mask, saved, exponent, builder, *options, **shapes) -> int:
    return 2 * scan_flops(elements, down, builder)
