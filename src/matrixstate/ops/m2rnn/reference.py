"""The definition of the M²RNN recurrence: plain PyTorch, one step after another. Its gradient is autograd's."""

import torch
from torch import Tensor

from matrixstate.ops._gradient import clamp_gradient


def unsupported(device: str, dtype: torch.dtype) -> str | None:
    return None


def m2rnn_scan(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, f: Tensor, state: Tensor, grad_clip: float | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """q, k [B,T,H,K], v [B,T,H,V], w [H,V,V], f [B,T,H], state [B,H,K,V] -> y [B,T,H,V], state."""
    h, out = state, []
    steps = zip(
        *(a.unbind(dim=1) for a in (q[..., None, :], k[..., None], v[..., None, :], f[..., None, None])), strict=True
    )
    for t, (q_t, k_t, v_t, f_t) in enumerate(steps):
        if reset is not None:
            h = h.masked_fill(reset[:, t, None, None, None], 0)
        h = f_t * h + (1 - f_t) * torch.tanh(h @ w + k_t * v_t)
        if grad_clip is not None:
            h = clamp_gradient(h, f_t < 1, grad_clip)
        out.append(q_t @ h)
    return torch.cat(out, dim=2).transpose(1, 2), h
