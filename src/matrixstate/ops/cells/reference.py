"""The definitions of the non-linear vector cells: plain PyTorch, one step after another. Gradients are autograd's."""

from collections.abc import Callable

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._gradient import clamp_gradient
from matrixstate.ops._heads import share
from matrixstate.ops._plain import unsupported

__all__ = ["gru_scan", "lstm_scan", "rnn_scan", "unsupported"]

State = tuple[Tensor, ...]  # tensors [B,H,d], h first


@widened
def rnn_scan(
    x: Tensor, w: Tensor, h: Tensor, grad_clip: float | None, mask: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """x [B,T,H·,d], w [H·,d,d], h [B,H,d], mask and reset [B,T] or None, no reset at a padded step -> y [B,T,H,d] in
    the dtype of x, h. H· may be any divisor of H.
    """
    (w,) = _shared_weights(h, w)

    def step(h: Tensor, x: Tensor) -> State:
        return (torch.tanh(_times(h, w) + x),)

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

    def step(h: Tensor, x: Tensor, xf: Tensor, xr: Tensor) -> State:
        f, r = torch.sigmoid(_times(h, wf) + xf), torch.sigmoid(_times(h, wr) + xr)
        z = torch.tanh(_times(h * r, w) + x) if bias is None else torch.tanh(r * (_times(h, w) + bias) + x)
        return (f * h + (1 - f) * z,)

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

    def step(h: Tensor, c: Tensor, x: Tensor, xi: Tensor, xf: Tensor, xo: Tensor) -> State:
        i, f, o = (torch.sigmoid(_times(h, weight) + gate) for weight, gate in ((wi, xi), (wf, xf), (wo, xo)))
        c = f * c + i * torch.tanh(_times(h, w) + x)
        return o * torch.tanh(c), c

    return _scan(step, (x, xi, xf, xo), (h, c), grad_clip, mask, reset)


def _shared_weights(h: Tensor, *weights: Tensor) -> list[Tensor]:
    """Weights for every head of the state h."""
    return [share(w, 0, h.shape[1]) for w in weights]


def _times(h: Tensor, w: Tensor) -> Tensor:
    """h [B,H,d] times w [H,d,d], head by head."""
    return torch.einsum("bhd,hde->bhe", h, w)


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
        after = step(*state, *now)
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
