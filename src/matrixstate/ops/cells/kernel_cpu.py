"""The cells as PyTorch operators that keep their gates and need no graph of steps.

The loop over steps is Python: a step is one product of [B, d] with weights of megabytes, which is nearly all its cost,
and that is compiled (csrc/panel.cpp). The weights' gradient is one product over all steps.
"""

from typing import Any

import torch
from torch import Tensor

from matrixstate.ops._cpu import fresh, no_second_derivative, operator, unsupported
from matrixstate.ops.cells.steps import CELLS, Cell, Panels, times

__all__ = ["unsupported"]  # the operators are called as torch.ops.matrixstate.<op>_cpu


def _outputs(x: list[Tensor], h: Tensor, c: Tensor | None, kept: int, keep: bool) -> tuple[Tensor, ...]:
    (B, T), (_, H, d) = x[0].shape[:2], h.shape
    steps = T if keep else min(T, 1)
    cells = fresh(h, 0) if c is None else fresh(h, steps, H, B, d)
    return (
        fresh(h, B, T, H, d),
        fresh(h),
        fresh(h, 0) if c is None else fresh(c),
        fresh(h, steps, H, B, kept * d),
        cells,
    )


def _cell(op: str, bias: Tensor | None) -> Cell:
    return CELLS[op if bias is None or op != "gru_scan" else "gru_scan_after"]


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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, the last h and c, every step's gates and its c before the step; those of one step unless `keep`."""
    cell = _cell(op, bias)
    y, last_h, last_c, gates, cells = outputs = _outputs(x, h, c, cell.kept, keep)
    weights, bias = Panels.of(w) if cell.whole else w.contiguous(), None if bias is None else bias[:, None, :]
    now, memory = h.transpose(0, 1).contiguous(), None if c is None else c.transpose(0, 1).contiguous()
    inputs = [a.transpose(1, 2) for a in x]  # [B, H, T, d]
    gathered = fresh(h, *now.shape[:2], len(x) * now.shape[2])
    for t in range(y.shape[1]):
        torch.cat([a[:, :, t].transpose(0, 1) for a in inputs], dim=-1, out=gathered)
        if reset is not None:
            fresh_rows = reset[:, t, None]
            now = now.masked_fill(fresh_rows, 0)
            memory = None if memory is None else memory.masked_fill(fresh_rows, 0)
        if memory is not None:
            cells[t if keep else 0] = memory
        after, after_memory = cell.forward(now, memory, gathered, weights, bias, gates[t if keep else 0])
        if mask is not None:
            real = mask[:, t, None]
            after = torch.where(real, after, now)
            after_memory = None if memory is None else torch.where(real, after_memory, memory)
        y[:, t] = after.transpose(0, 1)
        now, memory = after, after_memory
    last_h.copy_(now.transpose(0, 1))
    if memory is not None:
        last_c.copy_(memory.transpose(0, 1))
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
    """The gradients of w, bias, h and c (empty where absent), and then of each x."""
    B, T, H, d = y.shape
    cell = _cell(op, bias)
    w_t = Panels.of(w.mT) if cell.whole else w.mT.contiguous()
    before = torch.cat([h[:, None], y[:, :-1]], dim=1)  # h before every step [B, T, H, d]
    if reset is not None:
        before = before.masked_fill(reset[..., None, None], 0)
    before = before.permute(1, 2, 0, 3).contiguous()  # [T, H, B, d]
    steps = fresh(h, T, H, B, w.shape[-1])  # the gradients of x, in the order of the steps
    inner = steps if bias is None else fresh(steps)
    dh = dlast_h.transpose(0, 1).contiguous()
    dc = None if dlast_c is None else dlast_c.transpose(0, 1).contiguous()
    for t in range(T - 1, -1, -1):
        dh = dh + dy[:, t].transpose(0, 1)
        passed, passed_c = None, None
        if clip > 0:
            into, into_c = dh.clamp(-clip, clip), None if dc is None else dc.clamp(-clip, clip)
        else:
            into, into_c = dh, dc
        if mask is not None:
            real = mask[:, t, None]
            passed, into = dh.masked_fill(real, 0), into.masked_fill(~real, 0)
            if dc is not None and into_c is not None:
                passed_c, into_c = dc.masked_fill(real, 0), into_c.masked_fill(~real, 0)
        c = None if dc is None else cells[t]
        dh, dc, multiplied = cell.backward(into, into_c, before[t], c, gates[t], w_t, steps[t])
        if multiplied is not None:
            inner[t] = multiplied
        dh = dh if passed is None else dh + passed
        dc = dc if passed_c is None else dc + passed_c
        if reset is not None:
            dh = dh.masked_fill(reset[:, t, None], 0)
            dc = None if dc is None else dc.masked_fill(reset[:, t, None], 0)
    dx = [part.permute(2, 0, 1, 3).contiguous() for part in steps.split(d, dim=-1)]
    dw, dbias = _weights(op, before, gates, inner, bias, d)
    dh = dh.transpose(0, 1).contiguous()
    return [dw, dbias, dh, fresh(h, 0) if dc is None else dc.transpose(0, 1).contiguous(), *dx]


def _weights(
    op: str, before: Tensor, gates: Tensor, inner: Tensor, bias: Tensor | None, d: int
) -> tuple[Tensor, Tensor]:
    """The gradients of weights [H, d, G·d] and bias [H, d]: sums over all steps and rows, one product per head."""

    def over_all(left: Tensor, right: Tensor, out: Tensor) -> None:
        flat = [a.transpose(0, 1).flatten(1, 2) for a in (left, right)]
        times(flat[0].mT, flat[1], out)

    H = before.shape[1]
    dw = fresh(before, H, d, inner.shape[-1])
    if op == "gru_scan" and bias is None:  # the candidate's weights multiply r h
        over_all(before, inner[..., : 2 * d], dw[..., : 2 * d])
        over_all(before * gates[..., d : 2 * d], inner[..., 2 * d :], dw[..., 2 * d :])
    else:
        over_all(before, inner, dw)
    return dw, fresh(dw, 0) if bias is None else inner[..., 2 * d :].sum(dim=(0, 2))


def _fake_forward(op, x, w, bias, h, c, mask, reset, clip, keep):
    return _outputs(x, h, c, _cell(op, bias).kept, keep)


def _fake_backward(op, w, bias, h, mask, reset, clip, y, gates, cells, dy, dlast_h, dlast_c):
    gradients = [fresh(h, 0) if a is None else fresh(a) for a in (w, bias, h, dlast_c)]
    return gradients + [fresh(y) for _ in range(_cell(op, bias).gates)]


def _keep_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.op, _, w, bias, h, c, mask, reset, ctx.clip, _ = inputs
    y, _, _, gates, cells = output
    ctx.save_for_backward(w, bias, h, mask, reset, y, gates, cells)
    ctx.has_c = c is not None
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, dh: Tensor | None, dc: Tensor | None, *kept: Tensor | None) -> tuple:
    w, bias, h, mask, reset, y, gates, cells = ctx.saved_tensors
    dy, dh = (torch.zeros_like(like) if d is None else d for d, like in ((dy, y), (dh, h)))
    dc = (torch.zeros_like(h) if dc is None else dc) if ctx.has_c else None
    run = getattr(torch.ops.matrixstate, f"{ctx.op}_cpu_backward")
    dw, dbias, dh, dc, *dx = run(ctx.op, w, bias, h, mask, reset, ctx.clip, y, gates, cells, dy, dh, dc)
    return None, dx, dw, None if bias is None else dbias, dh, dc if ctx.has_c else None, None, None, None, None


def _register(op: str) -> None:
    """Registers the operators of one op, so that its errors and profiles bear its name."""
    operator(f"{op}_cpu")(_forward)
    operator(f"{op}_cpu_backward")(_backward)
    torch.library.register_fake(f"matrixstate::{op}_cpu")(_fake_forward)
    torch.library.register_fake(f"matrixstate::{op}_cpu_backward")(_fake_backward)
    torch.library.register_autograd(f"matrixstate::{op}_cpu", _differentiate, setup_context=_keep_for_backward)
    torch.library.register_autograd(f"matrixstate::{op}_cpu_backward", no_second_derivative(op))


for _op in ("rnn_scan", "gru_scan", "lstm_scan"):
    _register(_op)
