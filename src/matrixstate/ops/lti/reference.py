"""The definitions of the time-invariant models: plain PyTorch, one step after another. Their gradient is autograd's."""

import torch
from torch import Tensor

from matrixstate.ops._checks import full_precision
from matrixstate.ops._plain import unsupported

__all__ = ["dense_lti_scan", "lti_scan", "unsupported"]


def lti_scan(
    u: Tensor, log_decay: Tensor, weight: Tensor, state: Tensor, mask: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """u [B,T,D], log_decay and weight [D,N], state [B,D,N], mask and reset [B,T] or None, no reset at a padded step ->
    y [B,T,D] in the dtype of u, state.
    """
    decay, h, out = log_decay.exp(), state, []
    for t, u_t in enumerate(u.unbind(dim=1)):
        if reset is not None:
            h = h.masked_fill(reset[:, t, None, None], 0)
        after = decay * h + u_t[..., None].to(h.dtype)
        h = after if mask is None else torch.where(mask[:, t, None, None], after, h)
        out.append(read(h, weight))
    return torch.stack(out, dim=1).to(u.dtype), h


def dense_lti_scan(
    u: Tensor,
    transition: Tensor,
    write: Tensor,
    readout: Tensor,
    state: Tensor,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """u [B,T,D], transition [D or 1,N,N], write [D or 1,N], readout [D or 1,M,N], state [B,D,N], mask and reset [B,T]
    or None, no reset at a padded step -> y [B,T,D,M] in the dtype of u, state.
    """
    h, out = state, []
    with full_precision(u):
        for t, u_t in enumerate(u.to(state.dtype).unbind(dim=1)):
            if reset is not None:
                h = h.masked_fill(reset[:, t, None, None], 0)
            after = torch.einsum("dnm,bdm->bdn", transition, h) + write * u_t[..., None]
            h = after if mask is None else torch.where(mask[:, t, None, None], after, h)
            out.append(torch.einsum("dmn,bdn->bdm", readout, h))
    return torch.stack(out, dim=1).to(u.dtype), h.contiguous()


def read(h: Tensor, weight: Tensor) -> Tensor:
    """Re Σ_n w_n h_n of h [..., D, N]: [..., D]."""
    y = (weight * h).sum(-1)
    return y.real if y.is_complex() else y
