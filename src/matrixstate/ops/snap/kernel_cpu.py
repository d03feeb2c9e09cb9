"""The kernel of `snap_scan` (csrc/snap/) as PyTorch operators."""

from typing import Any

import torch
from torch import Tensor

from matrixstate import _native
from matrixstate.ops._cpu import unsupported
from matrixstate.ops._operators import dense, differentiable, differentiable_once, fresh, operator

__all__ = ["snap_scan", "unsupported"]


def snap_scan(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    matrix: Tensor,
    phase: Tensor,
    every: int,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference."""
    keys, values = keys.to(torch.float32), values.to(torch.float32)
    h, last, after = torch.ops.matrixstate.snap_scan_cpu(x, keys, values, matrix, phase, every, mask, reset)
    return h.to(x.dtype), last, after  # the operator returns float32, which its backward pass needs


def _outputs(x: Tensor, matrix: Tensor, phase: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return fresh(x, dtype=torch.float32), fresh(matrix), fresh(phase)


@operator("snap_scan_cpu")
def _forward(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    matrix: Tensor,
    phase: Tensor,
    every: int,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """h, the last state and its phase."""
    outputs = _outputs(x, matrix, phase)
    inputs = dense(x, keys, values, matrix, phase)
    _native.snap_forward(*inputs, every, *dense(mask, reset), *outputs, torch.get_num_threads())
    return outputs


@operator("snap_scan_cpu_backward")
def _backward(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    matrix: Tensor,
    phase: Tensor,
    every: int,
    mask: Tensor | None,
    reset: Tensor | None,
    h: Tensor,
    dh: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, of keys and values (a part per row of the batch, to be summed), and of the first state."""
    gradients = _gradients(x, keys, matrix)
    inputs = dense(x, keys, values, matrix, phase)
    _native.snap_backward(*inputs, every, *dense(mask, reset, h, dh, dlast), *gradients, torch.get_num_threads())
    return gradients


def _gradients(x: Tensor, keys: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts = fresh(keys, len(x), *keys.shape)
    return fresh(x), parts, fresh(parts), fresh(matrix)


@torch.library.register_fake("matrixstate::snap_scan_cpu")
def _(x, keys, values, matrix, phase, every, mask, reset):
    return _outputs(x, matrix, phase)


@torch.library.register_fake("matrixstate::snap_scan_cpu_backward")
def _(x, keys, values, matrix, phase, every, mask, reset, h, dh, dlast):
    return _gradients(x, keys, matrix)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    x, keys, values, matrix, phase, ctx.every, mask, reset = inputs
    h, last, after = output
    ctx.save_for_backward(x, keys, values, matrix, phase, mask, reset, h)
    ctx.mark_non_differentiable(after)
    ctx.set_materialize_grads(False)
    ctx.like = h.shape, last.shape


def _differentiate(ctx: Any, dh: Tensor | None, dlast: Tensor | None, _: None) -> tuple:
    x, keys, values, matrix, phase, mask, reset, h = ctx.saved_tensors
    h_shape, state_shape = ctx.like
    dh = h.new_zeros(h_shape) if dh is None else dh
    dlast = h.new_zeros(state_shape) if dlast is None else dlast
    dx, dkeys, dvalues, dmatrix = torch.ops.matrixstate.snap_scan_cpu_backward(
        x, keys, values, matrix, phase, ctx.every, mask, reset, h, dh, dlast
    )
    return dx, dkeys.sum(0), dvalues.sum(0), dmatrix, None, None, None, None


differentiable("snap_scan_cpu", _differentiate, _save_for_backward)
differentiable_once("snap_scan_cpu_backward", "snap_scan")
