"""The kernels of the cells (csrc/cells/) as PyTorch operators.

The gradient of a gate's weights is one product over all steps, which is left to PyTorch.
"""

from typing import Any

import torch
from torch import Tensor

from matrixstate import _native
from matrixstate.ops._checks import widened
from matrixstate.ops._cpu import unsupported
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
from matrixstate.ops.cells.weights import GATES, SAVED, kind_of, weight_factors

__all__ = ["gru_scan", "lstm_scan", "rnn_scan", "unsupported"]


@widened
def rnn_scan(
    x: Tensor, w: Tensor, h: Tensor, grad_clip: float | None, mask: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    return _run("rnn_scan", [x], [w], None, h, None, mask, reset, grad_clip)[:2]


@widened
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
    """As the reference."""
    return _run("gru_scan", [xf, xr, x], [wf, wr, w], bias, h, None, mask, reset, grad_clip)[:2]


@widened
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
    """As the reference."""
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
    H = h.shape[1]
    inputs, weights = [share(a, 2, H) for a in x], torch.cat([share(a, 0, H) for a in w], dim=-1)
    if bias is not None:
        bias = bias.expand(h.shape[1:]).contiguous()
    tensors = (*inputs, weights, h, bias, c)
    refuse_tangents(op, tensors)  # the operator's own check does not find the tensors in lists
    run = getattr(torch.ops.matrixstate, f"{op}_cpu")
    return run(op, inputs, weights, bias, h, c, mask, reset, grad_clip or 0.0, needs_gradient(*tensors))[:3]


def _outputs(kind: int, x: list[Tensor], h: Tensor, c: Tensor | None, save: bool) -> tuple[Tensor, ...]:
    """Uninitialised: y, the last h and c, the saved gates, and c before every step (the last two of an LSTM alone)."""
    (B, T), (_, H, d) = x[0].shape[:2], h.shape
    steps = T if save else min(T, 1)
    return (
        fresh(h, B, T, H, d),
        fresh(h),
        fresh(h, 0) if c is None else fresh(c),
        fresh(h, steps, SAVED[kind], B, H, d),
        fresh(h, 0) if c is None else fresh(h, steps, B, H, d),
    )


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, the last h and c, and saved for the backward pass the gates of every step and c before it.

    Without `save` the kernel overwrites the gates of one step.
    """
    kind = kind_of(op, bias)
    y, last_h, last_c, gates, cells = outputs = _outputs(kind, x, h, c, save)
    rows = [
        (a if a.stride(-1) == 1 else a.contiguous()).detach() for a in x
    ]  # not copied: they may be views of one projection
    of_c = (None, None) if c is None else (last_c, cells)
    _native.cell_forward(
        *(kind, rows),
        *dense(w, bias, h, c, mask, reset),
        *(y, last_h, of_c[0], gates, of_c[1]),
        torch.get_num_threads(),
    )
    return outputs  # type: ignore[return-value]


def _backward(
    op: str,
    w: Tensor,
    bias: Tensor | None,
    h: Tensor,
    mask: Tensor | None,
    reset: Tensor | None,
    clip: float,
    y: Tensor,
    gates: Tensor,
    cells: Tensor,
    dy: Tensor,
    dlast_h: Tensor,
    dlast_c: Tensor | None,
) -> list[Tensor]:
    """The gradients of w, bias, h and c (empty where one is None), and then of each x."""
    kind = kind_of(op, bias)
    has_c = dlast_c is not None
    dx, dh, dc = [fresh(y) for _ in range(GATES[kind])], fresh(h), fresh(h) if has_c else fresh(h, 0)
    _native.cell_backward(
        *(kind, *dense(w, h, mask, reset), clip),
        *dense(y, gates, cells if has_c else None, dy, dlast_h, dlast_c),
        *(dx, dh, dc if has_c else None),
        torch.get_num_threads(),
    )
    r = gates[:, 1].transpose(0, 1) if op == "gru_scan" else None
    lefts, rights = weight_factors(kind, h, y, dx, r, reset)
    dbias = fresh(h, 0) if bias is None else rights[2].sum(dim=(0, 1))
    return [_over_steps(lefts, rights), dbias, dh, dc, *dx]


def _over_steps(lefts: list[Tensor], rights: list[Tensor]) -> Tensor:
    """The products of pairs [B, T, H, d] summed over all steps and rows, side by side: [H, d, G·d]."""
    H, d = lefts[0].shape[2:]
    out = fresh(lefts[0], H, d, len(lefts) * d)
    for left, right, part in zip(lefts, rights, out.split(d, dim=-1), strict=True):
        left, right = left.flatten(0, 1), right.flatten(0, 1)
        for head in range(H):
            torch.mm(left[:, head].T, right[:, head], out=part[head])
    return out


def _fake_forward(op, x, w, bias, h, c, mask, reset, clip, save):
    return _outputs(kind_of(op, bias), x, h, c, save)


def _fake_backward(op, w, bias, h, mask, reset, clip, y, gates, cells, dy, dlast_h, dlast_c):
    gradients = [fresh(h, 0) if a is None else fresh(a) for a in (w, bias, h, dlast_c)]
    return gradients + [fresh(y) for _ in range(GATES[kind_of(op, bias)])]


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.op, _, w, bias, h, c, mask, reset, ctx.clip, _ = inputs
    y, _, _, gates, cells = output
    ctx.save_for_backward(w, bias, h, mask, reset, y, gates, cells)
    ctx.has_c = c is not None
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, dh: Tensor | None, dc: Tensor | None, *saved: Tensor | None) -> tuple:
    w, bias, h, mask, reset, y, gates, cells = ctx.saved_tensors
    dy, dh = (torch.zeros_like(like) if d is None else d for d, like in ((dy, y), (dh, h)))
    dc = (torch.zeros_like(h) if dc is None else dc) if ctx.has_c else None
    run = getattr(torch.ops.matrixstate, f"{ctx.op}_cpu_backward")
    dw, dbias, dh, dc, *dx = run(ctx.op, w, bias, h, mask, reset, ctx.clip, y, gates, cells, dy, dh, dc)
    return None, dx, dw, None if bias is None else dbias, dh, dc if ctx.has_c else None, None, None, None, None


def _register(op: str) -> None:
    """Registers the operators of one op, so that errors and profiles name it."""
    operator(f"{op}_cpu")(_forward)
    operator(f"{op}_cpu_backward")(_backward)
    torch.library.register_fake(f"matrixstate::{op}_cpu")(_fake_forward)
    torch.library.register_fake(f"matrixstate::{op}_cpu_backward")(_fake_backward)
    differentiable(f"{op}_cpu", _differentiate, _save_for_backward)
    differentiable_once(f"{op}_cpu_backward", op)


for _op in ("rnn_scan", "gru_scan", "lstm_scan"):
    _register(_op)
