"""The Triton kernels of the M²RNN recurrence (triton_programs.py) as PyTorch operators."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from matrixstate.ops import _triton
from matrixstate.ops._operators import dense, differentiable, differentiable_once, fresh, needs_gradient, operator
from matrixstate.ops.m2rnn import triton_programs, triton_step
from matrixstate.ops.m2rnn.checks import check_step
from matrixstate.ops.m2rnn.flops import backward_flops, forward_flops
from matrixstate.ops.m2rnn.weights import M2RNNWeights

__all__ = ["m2rnn_scan", "m2rnn_step", "unsupported"]

INTERVAL = 16  # steps from one saved state to the next
ROWS = 16  # of a state, per program: the least that tensor cores take, and most programs
WARPS = {16: 1, 32: 2, 64: 8}  # per program, by V padded to a power of two: so many that no register is spilled


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """Why the kernel cannot run such inputs; None if it can."""
    if "V > 64" in details:
        return "keeps W and its gradient in registers, for which V must be at most 64"
    return _triton.unsupported(device, dtype)


def m2rnn_scan(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, f: Tensor, state: Tensor, grad_clip: float | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As the reference. Where q, k, v and w are bfloat16, products round states to bfloat16 too, and tanh errs by
    2^-11; the state that is carried is float32 all the same.
    """
    half = q.dtype == w.dtype == torch.bfloat16
    inputs = q, k, v, w.to(torch.float32), f.to(torch.float32), state
    saves = needs_gradient(*inputs)
    y, last, _ = torch.ops.matrixstate.m2rnn_scan_triton(*inputs, reset, grad_clip or 0.0, saves, half)
    return y, last


def m2rnn_step(
    x: Tensor, weights: M2RNNWeights, past: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """As the reference, in two launches: all heads, and the norm. Products and tanh are those of float32."""
    C = check_step("m2rnn_step", x, weights, past, state)
    B, H, K, V = state.shape
    (heads_q, heads_k, heads_v), unit, conv, log_rate, bias, w, residual, norm, eps = weights
    y, after, last = fresh(state, B, H, V), None if past is None else fresh(past), fresh(state)
    parameters = dense(conv, log_rate, bias, w, residual)
    heads = {"H": H, "HQ": heads_q, "HK": heads_k, "HV": heads_v, "HF": len(bias), "HW": len(w)}
    heads["HG"] = (x.shape[2] - C - len(bias)) // V
    sizes = {"K": K, "V": V, "ROWS": _triton.padded(K), "COLUMNS": _triton.padded(V)}
    sizes["TAPS"] = 0 if conv is None else conv.shape[1]
    options = {"UNIT": unit, "RESIDUAL": residual is not None} | _triton.arithmetic(False)
    tensors = (*dense(x, past, state), *parameters, y, after, last)
    given = [state if tensor is None else tensor for tensor in tensors]  # what is not there is not read
    _triton.launch(triton_step.step, (B * H,), given, warps=4, **heads, **sizes, **options)
    y = torch.nn.functional.rms_norm(y.flatten(1), (H * V,), norm.to(y.dtype), eps)
    return y[:, None].to(norm.dtype), after, last


def _saved(state: Tensor, T: int, save: bool) -> Tensor:
    """Room for the states that the backward pass begins from."""
    B, H, K, V = state.shape
    return fresh(state, B, H, -(-T // INTERVAL) if save else 0, K, V)


def _sizes(q: Tensor, k: Tensor, v: Tensor, w: Tensor, f: Tensor, state: Tensor) -> dict[str, int]:
    """The constants and the number of warps of both programs."""
    H, K, V = state.shape[1:]
    columns = _triton.padded(V)
    heads = {"HQ": q.shape[2], "HK": k.shape[2], "HV": v.shape[2], "HW": w.shape[0], "HF": f.shape[2]}
    sizes = {"H": H, **heads, "K": K, "V": V, "ROWS": ROWS, "COLUMNS": columns, "INTERVAL": INTERVAL}
    return sizes | {"warps": WARPS[columns]}


@operator("m2rnn_scan_triton", "CUDA", "CPU")
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    f: Tensor,
    state: Tensor,
    reset: Tensor | None,
    clip: float,
    save: bool,
    half: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and saved for the backward pass the states before every INTERVAL-th step, if `save`."""
    (B, T), V, (H, K) = q.shape[:2], v.shape[3], state.shape[1:3]
    parts = -(-K // ROWS)
    y, last, saved = fresh(state, parts, B, T, H, V), fresh(state), _saved(state, T, save)
    arguments = (*dense(q, k, v, w, f), _triton.flags(reset, q), *dense(state), y, last, saved, T)
    constants = _sizes(q, k, v, w, f, state) | _triton.arithmetic(half)
    _triton.launch(triton_programs.forward, (B * H, parts), arguments, SAVE=save, **constants)
    return (y.sum(dim=0) if parts > 1 else y[0]).to(q.dtype), last, saved


@operator("m2rnn_scan_triton_backward", "CUDA", "CPU")
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
    half: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v, w, f and the first state. `clip` 0 stands for no clamping."""
    (B, T), (H, K, V) = q.shape[:2], dlast.shape[1:]
    constants = _sizes(q, k, v, w, f, dlast) | _triton.arithmetic(half)
    parts = -(-K // ROWS)
    shapes = (B, T, H, K), (B, T, H, K), (parts, B, T, H, V), (B, H, parts, V, V), (parts, B, T, H), (B, H, K, V)
    dq, dk, dv, dw, df, dfirst = found = [fresh(dlast, *shape) for shape in shapes]
    scratch = fresh(dlast, B * H * parts, INTERVAL, ROWS, constants["COLUMNS"])
    inputs = (*dense(q, k, v, w, f), _triton.flags(reset, q), *dense(saved), scratch, *dense(dy, dlast))
    arguments = (*inputs, *found, T, clip)
    _triton.launch(triton_programs.backward, (B * H, parts), arguments, CLIPPED=clip > 0, **constants)
    dq, dk = (_of_shared(x, 2, like) for x, like in ((dq, q), (dk, k)))
    dv, df = (_of_shared(x.sum(dim=0), 2, like) for x, like in ((dv, v), (df, f)))
    return dq, dk, dv, _of_shared(dw.sum(dim=(0, 2)), 0, w), df, dfirst


def _of_shared(gradient: Tensor, axis: int, like: Tensor) -> Tensor:
    """The gradient of a tensor whose heads are shared: the sum over the heads that use each of them."""
    shared = gradient.unflatten(axis, (like.shape[axis], -1)).sum(dim=axis + 1)
    return shared.to(like.dtype)


@torch.library.register_fake("matrixstate::m2rnn_scan_triton")
def _(q, k, v, w, f, state, reset, clip, save, half):
    y = fresh(q, *q.shape[:2], state.shape[1], v.shape[3])
    return y, fresh(state), _saved(state, q.shape[1], save)


@torch.library.register_fake("matrixstate::m2rnn_scan_triton_backward")
def _(q, k, v, w, f, reset, saved, dy, dlast, clip, half):
    return tuple(fresh(tensor) for tensor in (q, k, v, w, f, dlast))


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, w, f, _, reset, *ctx.options = inputs
    y, last, saved = output
    ctx.save_for_backward(q, k, v, w, f, reset, saved)
    ctx.set_materialize_grads(False)
    ctx.like = y.shape, last.shape, last.dtype


def _differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None, dsaved: Tensor | None) -> tuple:
    q, *_ = saved = ctx.saved_tensors
    clip, _, half = ctx.options
    y_shape, state_shape, state_dtype = ctx.like
    dy = q.new_zeros(y_shape) if dy is None else dy
    dlast = q.new_zeros(state_shape, dtype=state_dtype) if dlast is None else dlast
    gradients = torch.ops.matrixstate.m2rnn_scan_triton_backward(*saved, dy, dlast, clip, half)
    return *gradients, None, None, None, None


differentiable("m2rnn_scan_triton", _differentiate, _save_for_backward)
differentiable_once("m2rnn_scan_triton_backward", "m2rnn_scan")
register_flop_formula(torch.ops.matrixstate.m2rnn_scan_triton)(forward_flops)
register_flop_formula(torch.ops.matrixstate.m2rnn_scan_triton_backward)(backward_flops)
