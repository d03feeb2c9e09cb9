"""The kernel of the M²RNN recurrence (csrc/m2rnn/) as PyTorch operators, and that of one token through a layer."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from matrixstate import _native
from matrixstate.ops._cpu import unsupported
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
from matrixstate.ops.m2rnn.flops import backward_flops, forward_flops
from matrixstate.ops.m2rnn.weights import M2RNNWeights

__all__ = ["m2rnn_scan", "m2rnn_step", "unsupported"]


def m2rnn_scan(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, f: Tensor, state: Tensor, grad_clip: float | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As the reference. The kernel reads shared heads where they are."""
    inputs = q, k, v, w.to(torch.float32), f.to(torch.float32), state
    y, last, _ = torch.ops.matrixstate.m2rnn_scan_cpu(*inputs, reset, grad_clip or 0.0, needs_gradient(*inputs))
    return y, last


def m2rnn_step(
    x: Tensor, weights: M2RNNWeights, past: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """As the reference. Called directly: PyTorch's dispatcher costs more than the step."""
    y = torch.empty((len(x), 1, len(weights.norm)), dtype=weights.norm.dtype)
    last, after = None if past is None else torch.empty(past.shape), torch.empty(state.shape)
    heads, unit_keys, *parameters, eps = weights
    inputs = *plain(x), *heads, unit_keys, *floats(*parameters), eps, *plain(past, state)
    call_checked(_native.m2rnn_step, *inputs, y, last, after)
    return y, last, after


def _outputs(q: Tensor, v: Tensor, state: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    B, T, V, H, K = *v.shape[:2], v.shape[3], *state.shape[1:3]
    intervals = -(-T // _native.M2RNN_INTERVAL) if save else 0
    return fresh(q, B, T, H, V), fresh(state), fresh(state, B, H, intervals, K, V)


@operator("m2rnn_scan_cpu")
def _forward(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, f: Tensor, state: Tensor, reset: Tensor | None, clip: float, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and saved for the backward pass the states every few steps, from which it recomputes the rest.

    Without `save` none are saved.
    """
    y, last, saved = _outputs(q, v, state, save)
    inputs = dense(q, k, v, w, f, state, reset)
    _native.m2rnn_forward(*inputs, y, last, saved if save else None, torch.get_num_threads())
    return y, last, saved


@operator("m2rnn_scan_cpu_backward")
def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    f: Tensor,
    reset: Tensor | None,
    saved: Tensor,
    dy: Tensor,
    dlast: Tensor,
    clip: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, w, f and the first state. `clip` 0 stands for no clamping."""
    gradients = [fresh(tensor) for tensor in (q, k, v, w, f, dlast)]
    inputs = dense(q, k, v, w, f, reset, saved, dy, dlast)
    _native.m2rnn_backward(*inputs, clip, *gradients, torch.get_num_threads())
    return tuple(gradients)  # type: ignore[return-value]


@torch.library.register_fake("matrixstate::m2rnn_scan_cpu")
def _(q, k, v, w, f, state, reset, clip, save):
    return _outputs(q, v, state, save)


@torch.library.register_fake("matrixstate::m2rnn_scan_cpu_backward")
def _(q, k, v, w, f, reset, saved, dy, dlast, clip):
    return tuple(fresh(tensor) for tensor in (q, k, v, w, f, dlast))


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, w, f, _, reset, ctx.clip, _ = inputs
    y, last, saved = output
    ctx.save_for_backward(q, k, v, w, f, reset, saved)
    ctx.set_materialize_grads(False)
    ctx.like = y.shape, last.shape, last.dtype


def _differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None, dsaved: Tensor | None) -> tuple:
    q, *_ = saved = ctx.saved_tensors
    y_shape, state_shape, state_dtype = ctx.like
    dy = q.new_zeros(y_shape) if dy is None else dy
    dlast = q.new_zeros(state_shape, dtype=state_dtype) if dlast is None else dlast
    gradients = torch.ops.matrixstate.m2rnn_scan_cpu_backward(*saved, dy, dlast, ctx.clip)
    return *gradients, None, None, None


differentiable("m2rnn_scan_cpu", _differentiate, _save_for_backward)
differentiable_once("m2rnn_scan_cpu_backward", "m2rnn_scan")

register_flop_formula(torch.ops.matrixstate.m2rnn_scan_cpu)(forward_flops)
register_flop_formula(torch.ops.matrixstate.m2rnn_scan_cpu_backward)(backward_flops)
