"""The definitions of the non-linear vector cells: plain PyTorch, one step after another. Gradients are autograd's."""

from collections.abc import Callable

import torch
from torch import Tensor

from matrixstate.ops._gradient import clamp_gradient

Step = Callable[..., tuple[Tensor, ...]]


def unsupported(device: str, dtype: torch.dtype) -> str | None:
    return None


def rnn_step(h: Tensor, x: Tensor, *, w: Tensor) -> Tensor:
    """h = tanh(h W + x)."""
    return torch.tanh(_times(h, w) + x)


def gru_step(
    h: Tensor, x: Tensor, xf: Tensor, xr: Tensor, *, w: Tensor, wf: Tensor, wr: Tensor, bias: Tensor, reset_after: bool
) -> Tensor:
    """h = f h + (1 - f) tanh((h r) W + x), or with `reset_after` tanh(r (h W + bias) + x)."""
    f, r = torch.sigmoid(_times(h, wf) + xf), torch.sigmoid(_times(h, wr) + xr)
    z = torch.tanh(r * (_times(h, w) + bias) + x) if reset_after else torch.tanh(_times(h * r, w) + x)
    return f * h + (1 - f) * z


def lstm_step(
    h: Tensor,
    c: Tensor,
    x: Tensor,
    xi: Tensor,
    xf: Tensor,
    xo: Tensor,
    *,
    w: Tensor,
    wi: Tensor,
    wf: Tensor,
    wo: Tensor,
) -> tuple[Tensor, Tensor]:
    """c = f c + i tanh(h W + x), h = o tanh(c)."""
    i, f, o = (torch.sigmoid(_times(h, weight) + gate) for weight, gate in ((wi, xi), (wf, xf), (wo, xo)))
    c = f * c + i * torch.tanh(_times(h, w) + x)
    return o * torch.tanh(c), c


def run(
    step: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: tuple[Tensor, ...],
    state: tuple[Tensor, ...],
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Every h [B,T,H,d] and the last state, for inputs [B,T,H,d] and a state of tensors [B,H,d] whose first is h."""
    out = []
    for t, now in enumerate(zip(*(x.unbind(dim=1) for x in inputs), strict=True)):
        real = None if mask is None else mask[:, t, None, None]
        if reset is not None:
            state = tuple(s.masked_fill(reset[:, t, None, None], 0) for s in state)
        after = step(*state, *now)
        after = (after,) if isinstance(after, Tensor) else after
        if grad_clip is not None:
            after = tuple(clamp_gradient(s, torch.ones_like(s, dtype=torch.bool), grad_clip) for s in after)
        state = after if real is None else tuple(torch.where(real, a, s) for a, s in zip(after, state, strict=True))
        out.append(state[0])
    return torch.stack(out, dim=1), tuple(s.contiguous() for s in state)  # einsum may have laid them out otherwise


def _times(h: Tensor, w: Tensor) -> Tensor:
    """h [B,H,d] times w [H,d,d], head by head."""
    return torch.einsum("bhd,hde->bhe", h, w)
