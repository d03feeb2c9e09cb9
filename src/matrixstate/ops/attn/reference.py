"""The definition of attention: softmax of scaled products over the allowed keys. Its gradient is autograd's."""

import torch
from torch import Tensor


def unsupported(device: str, dtype: torch.dtype) -> str | None:
    return None


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    """q [B,H,T,K], k [B,H,N,K], v [B,H,N,V], allowed [B,1,T,N] bool or None (causal: the last T steps) -> [B,H,T,V]."""
    if allowed is None:
        allowed = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
    scores = (q @ k.mT * scale).masked_fill(~allowed, float("-inf"))
    return scores.softmax(dim=-1) @ v
