"""The Triton kernels of the cells (triton_programs.py) as PyTorch operators.

The gradient of a gate's weights is one product over all steps, which is left to PyTorch.
"""

from typing import Any

import torch
from torch import Tensor

from matrixstate.ops import _triton
from matrixstate.ops._checks import full_precision
from matrixstate.ops._heads import share
from matrixstate.ops._operators import (
    dense,
    differentiable,
    differentiable_once,
    fresh,
    needs_gradient,
    operator,
    refuse_tangents,
)
from matrixstate.ops.cells import triton_programs, triton_streamed
from matrixstate.ops.cells.weights import GATES, KINDS, SAVED, kind_of, weight_factors

__all__ = ["gru_scan", "lstm_scan", "rnn_scan", "unsupported"]

ROWS = 16  # of the batch, per program: the least that tensor cores take
MOST_UNITS = 64  # of a head whose weights stay with a program; those of wider ones are read again at every step


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """Why the kernel cannot run such inputs; None if it can."""
    return _triton.unsupported(device, dtype)


def rnn_scan(
    x: Tensor, w: Tensor, h: Tensor, grad_clip: float | None, mask: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As the reference. Where inputs and weights are bfloat16, products round states to bfloat16 too, and tanh and
    sigmoid err by 2^-11; the state that is carried is float32 all the same.
    """
    return _run("rnn_scan", [x], [w], None, h, None, mask, reset, grad_clip)[:2]


def gru_scan(
    x: Tensor,
    xf: Tensor,
    xr: Tensor,
    w: Tensor,
    wf: Tensor,
    wr: Tensor,
    bias: Tensor | None,
    h: Tensor,
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As the reference; in bfloat16 as `rnn_scan`."""
    return _run("gru_scan", [xf, xr, x], [wf, wr, w], bias, h, None, mask, reset, grad_clip)[:2]


def lstm_scan(
    x: Tensor,
    xi: Tensor,
    xf: Tensor,
    xo: Tensor,
    w: Tensor,
    wi: Tensor,
    wf: Tensor,
    wo: Tensor,
    h: Tensor,
    c: Tensor,
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference; in bfloat16 as `rnn_scan`."""
    return _run("lstm_scan", [xi, xf, xo, x], [wi, wf, wo, w], None, h, c, mask, reset, grad_clip)


def _run(
    op: str,
    x: list[Tensor],
    w: list[Tensor],
    bias: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    mask: Tensor | None,
    reset: Tensor | None,
    grad_clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the operator of `op`, which takes the weights of all gates side by side, those of the candidate last."""
    H, half = h.shape[1], all(a.dtype == torch.bfloat16 for a in (*x, *w))
    with full_precision(h):
        # Inputs that heads share are float32, so that their gradients are summed as such.
        inputs = [a if a.shape[2] == H else share(a.to(torch.float32), 2, H) for a in x]
        weights = torch.cat([share(a.to(torch.float32), 0, H) for a in w], dim=-1)
        if bias is not None:
            bias = bias.to(torch.float32).expand(h.shape[1:]).contiguous()
    tensors = (*inputs, weights, h, bias, c)
    refuse_tangents(op, tensors, "triton")  # the operator's own check does not find the tensors in lists
    run = getattr(torch.ops.matrixstate, f"{op}_triton")
    saves = needs_gradient(*tensors)
    y, h, c, *_ = run(op, inputs, weights, bias, h, c, mask, reset, grad_clip or 0.0, saves, half)
    return y.to(x[0].dtype), h, c  # type: ignore[return-value]


def _sizes(kind: int, h: Tensor, half: bool) -> dict[str, Any]:
    """The constants and the number of warps of both programs."""
    H, d = h.shape[1:]
    sizes = {"H": H, "D": d, "KIND": kind, "GATES": GATES[kind], "ROWS": ROWS, "HALF": half}
    if d > MOST_UNITS:
        return sizes | {"UNITS": 64, "DEPTH": 64, "STAGES": 1 if _triton.AMD else 3, "warps": 8}
    units = _triton.padded(d)
    return sizes | {"UNITS": units, "warps": {16: 1, 32: 2, 64: 4 if half else 8}[units]}


def _up_to_four(tensors: list[Tensor]) -> list[Tensor | None]:
    return [*tensors, *[None] * (4 - len(tensors))]


def _outputs(kind: int, x: list[Tensor], h: Tensor, c: Tensor | None, save: bool) -> tuple[Tensor, ...]:
    """Uninitialised: y, the last h and c, the saved gates, and c before every step (the last two of an LSTM alone)."""
    (B, T), (_, H, d) = x[0].shape[:2], h.shape
    steps = T if save else 0
    return (
        fresh(h, B, T, H, d),
        fresh(h),
        fresh(h, 0) if c is None else fresh(c),
        fresh(h, SAVED[kind], B, steps, H, d),
        fresh(h, 0) if c is None else fresh(h, B, steps, H, d),
    )


def _with_one_stride(x: list[Tensor]) -> tuple[list[Tensor], int]:
    """The inputs and how far apart their steps are; not copied where they are parts of one projection."""
    T, H, d = x[0].shape[1:]
    step = x[0].stride(1)
    if all(a.stride() == (T * step, step, d, 1) for a in x):
        return [a.detach() for a in x], step
    return dense(*x), H * d  # type: ignore[return-value]


def _forward(
    op: str,
    x: list[Tensor],
    w: Tensor,
    bias: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    mask: Tensor | None,
    reset: Tensor | None,
    clip: float,
    save: bool,
    half: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, the last h and c, and if `save` for the backward pass the gates of every step and c before it."""
    kind, (B, T) = kind_of(op, bias), x[0].shape[:2]
    y, last_h, last_c, gates, cells = outputs = _outputs(kind, x, h, c, save)
    w, (inputs, stride) = w.to(torch.bfloat16) if half else w, _with_one_stride(x)
    carried, cells = (None, None) if c is None else (last_c, cells)
    constants = _sizes(kind, h, half) | _triton.arithmetic(half) | {"STRIDE": stride, "SAVE": save}
    grid, marks = (-(-B // ROWS), h.shape[1]), (_triton.flags_if_any(mask), _triton.flags_if_any(reset))
    if h.shape[2] > MOST_UNITS:
        scratch = fresh(h, 4, *h.shape)
        scratch[0] = h
        if c is not None:
            last_c.copy_(c)
        arguments = (
            *_up_to_four(inputs),
            *dense(w, bias, h),
            carried,
            *marks,
            y,
            scratch,
            gates,
            cells,
            B,
            T,
            h.shape[2],
        )
        _triton.launch(triton_streamed.forward_streamed, grid, arguments, **constants)
        last_h.copy_(scratch[T % 2])
        return outputs  # type: ignore[return-value]
    arguments = (*_up_to_four(inputs), *dense(w, bias, h, c), *marks, y, last_h, carried, gates, cells, B, T)
    _triton.launch(triton_programs.forward, grid, arguments, **constants)
    return outputs  # type: ignore[return-value]


def _backward(
    op: str,
    w: Tensor,
    bias: Tensor | None,
    h: Tensor,
    mask: Tensor | None,
    reset: Tensor | None,
    clip: float,
    half: bool,
    y: Tensor,
    gates: Tensor,
    cells: Tensor,
    dy: Tensor,
    dlast_h: Tensor,
    dlast_c: Tensor | None,
) -> list[Tensor]:
    """The gradients of w, bias, h and c (empty where one is None), and then of each x."""
    kind, (B, T, H) = kind_of(op, bias), y.shape[:3]
    has_c = dlast_c is not None
    dx, dh, dc = [fresh(y) for _ in range(GATES[kind])], fresh(h), fresh(h) if has_c else fresh(h, 0)
    weights = w.to(torch.bfloat16) if half else w
    marks = _triton.flags_if_any(mask), _triton.flags_if_any(reset)
    inputs = *dense(weights, h), *marks, *dense(y, gates, cells if has_c else None, dy)
    constants = _sizes(kind, h, half) | _triton.arithmetic(half) | {"CLIPPED": clip > 0}
    del constants["FAST"]  # it has neither tanh nor sigmoid
    found, grid = (*_up_to_four(dx), dh, dc if has_c else None), (-(-B // ROWS), H)
    if h.shape[2] > MOST_UNITS:
        dh.copy_(dlast_h)
        if dlast_c is not None:
            dc.copy_(dlast_c)
        inner = fresh(h) if KINDS[kind] == "gru_scan_after" else None
        arguments = (*inputs, *found, inner, B, T, h.shape[2], clip)
        _triton.launch(triton_streamed.backward_streamed, grid, arguments, **constants)
    else:
        arguments = (*inputs, *dense(dlast_h, dlast_c), *found, B, T, clip)
        _triton.launch(triton_programs.backward, grid, arguments, **constants)
    r = gates[1] if op == "gru_scan" else None
    lefts, rights = weight_factors(kind, h, y, dx, r, reset)
    dbias = fresh(h, 0) if bias is None else rights[2].sum(dim=(0, 1))
    return [_over_steps(lefts, rights), dbias, dh, dc, *dx]


def _over_steps(lefts: list[Tensor], rights: list[Tensor]) -> Tensor:
    """The products of pairs [B, T, H, d] summed over all steps and rows, side by side: [H, d, G·d]."""
    by_head = [[a.flatten(0, 1).movedim(1, 0) for a in pair] for pair in zip(lefts, rights, strict=True)]
    return torch.cat([torch.bmm(left.mT, right) for left, right in by_head], dim=-1)


def _fake_forward(op, x, w, bias, h, c, mask, reset, clip, save, half):
    return _outputs(kind_of(op, bias), x, h, c, save)


def _fake_backward(op, w, bias, h, mask, reset, clip, half, y, gates, cells, dy, dlast_h, dlast_c):
    gradients = [fresh(h, 0) if a is None else fresh(a) for a in (w, bias, h, dlast_c)]
    return gradients + [fresh(y) for _ in range(GATES[kind_of(op, bias)])]


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.op, x, w, bias, h, c, mask, reset, ctx.clip, _, ctx.half = inputs
    y, _, _, gates, cells = output
    ctx.save_for_backward(w, bias, h, mask, reset, y, gates, cells)
    ctx.has_c, ctx.dtypes = c is not None, [a.dtype for a in x]
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, dh: Tensor | None, dc: Tensor | None, *saved: Tensor | None) -> tuple:
    w, bias, h, mask, reset, y, gates, cells = ctx.saved_tensors
    dy, dh = (torch.zeros_like(like) if d is None else d for d, like in ((dy, y), (dh, h)))
    dc = (torch.zeros_like(h) if dc is None else dc) if ctx.has_c else None
    run = getattr(torch.ops.matrixstate, f"{ctx.op}_triton_backward")
    dw, dbias, dh, dc, *dx = run(ctx.op, w, bias, h, mask, reset, ctx.clip, ctx.half, y, gates, cells, dy, dh, dc)
    dx = [a.to(dtype) for a, dtype in zip(dx, ctx.dtypes, strict=True)]
    none = [None] * 5  # of the masks and options
    return None, dx, dw, None if bias is None else dbias, dh, dc if ctx.has_c else None, *none


def _register(op: str) -> None:
    """Registers the operators of one op, so that errors and profiles name it."""
    operator(f"{op}_triton", "CUDA", "CPU")(_forward)
    operator(f"{op}_triton_backward", "CUDA", "CPU")(_backward)
    torch.library.register_fake(f"matrixstate::{op}_triton")(_fake_forward)
    torch.library.register_fake(f"matrixstate::{op}_triton_backward")(_fake_backward)
    differentiable(f"{op}_triton", _differentiate, _save_for_backward)
    differentiable_once(f"{op}_triton_backward", op)


for _op in ("rnn_scan", "gru_scan", "lstm_scan"):
    _register(_op)
