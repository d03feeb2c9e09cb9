"""The definitions of the non-linear vector cells: plain PyTorch, one step after another. Gradients are autograd's."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from matrixstate.ops._checks import full_precision, widened
from matrixstate.ops._gradient import clamp_gradient
from matrixstate.ops._heads import share
from matrixstate.ops._plain import unsupported
from matrixstate.ops.cells import equations
from matrixstate.ops.cells.equations import Cell, State

__all__ = ["cell_scan", "gru_scan", "lstm_scan", "rnn_scan", "unsupported"]


@widened
def rnn_scan(
    x: Tensor, w: Tensor, h: Tensor, grad_clip: float | None, mask: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """x [B,T,H·,d], w [H·,d,d], h [B,H,d], mask and reset [B,T] or None, no reset at a padded step -> y [B,T,H,d] in
    the dtype of x, h. H· may be any divisor of H.
    """
    (w,) = _shared_weights(h, w)

    def step(state: State, x: Tensor) -> State:
        return equations.rnn(state, x=x, w=w)

    return _scan(step, (x,), (h,), grad_clip, mask, reset)


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
    """As `rnn_scan`, with bias [d] or [H,d] where the reset gate acts after the product, else None."""
    w, wf, wr = _shared_weights(h, w, wf, wr)

    def step(state: State, x: Tensor, xf: Tensor, xr: Tensor) -> State:
        return equations.gru(state, x=x, xf=xf, xr=xr, w=w, wf=wf, wr=wr, bias=bias)

    return _scan(step, (x, xf, xr), (h,), grad_clip, mask, reset)


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
    """As `rnn_scan`, with c [B,H,d] after h -> y, h, c."""
    w, wi, wf, wo = _shared_weights(h, w, wi, wf, wo)

    def step(state: State, x: Tensor, xi: Tensor, xf: Tensor, xo: Tensor) -> State:
        return equations.lstm(state, x=x, xi=xi, xf=xf, xo=xo, w=w, wi=wi, wf=wf, wo=wo)

    return _scan(step, (x, xi, xf, xo), (h, c), grad_clip, mask, reset)


def cell_scan(
    cell: Cell,
    inputs: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    state: State,
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, State]:
    """Any cell, with the names of its inputs and weights -> y in the dtype of the inputs, state."""
    x, dtype = inputs[cell.inputs[0]], state[0].dtype
    wide = {name: share(w.to(dtype), 0, state[0].shape[1]) for name, w in weights.items()}

    def step(state: State, *now: Tensor) -> State:
        return cell.step(state, **dict(zip(cell.inputs, now, strict=True)), **wide)

    with full_precision(x):
        ordered = tuple(inputs[name].to(dtype) for name in cell.inputs)
        y, *last = _scan(step, ordered, state, grad_clip, mask, reset)
    return y.to(x.dtype), tuple(last)


def _shared_weights(h: Tensor, *weights: Tensor) -> list[Tensor]:
    """Weights for every head of the state h."""
    return [share(w, 0, h.shape[1]) for w in weights]


def _scan(
    step: Callable[..., State],
    inputs: tuple[Tensor, ...],
    state: State,
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple:
    """y [B,T,H,d], which is every h, and the tensors of the last state; `step` maps a state and inputs to a state."""
    inputs, out = tuple(share(x, 2, state[0].shape[1]) for x in inputs), []
    for t, now in enumerate(zip(*(x.unbind(dim=1) for x in inputs), strict=True)):
        if reset is not None:
            state = tuple(s.masked_fill(reset[:, t, None, None], 0) for s in state)
        after = step(state, *now)
        if grad_clip is not None:
            after = tuple(clamp_gradient(s, torch.ones_like(s, dtype=torch.bool), grad_clip) for s in after)
        if (
            mask is not None
        ):  # selected, not multiplied: a padded step leaves the state unchanged bit for bit, even beside a NaN
            real = mask[:, t, None, None]
            after = tuple(torch.where(real, a, s) for a, s in zip(after, state, strict=True))
        state = after
        out.append(state[0])
    return torch.stack(out, dim=1), *(s.contiguous() for s in state)  # einsum may have laid them out otherwise
