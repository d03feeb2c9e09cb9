"""PyTorch's fused scaled-dot-product attention; it has no double backward on a CPU."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def unsupported(device: str, dtype: torch.dtype) -> str | None:
    return None


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    """q [B,H,T,K], k [B,H,N,K], v [B,H,N,V], allowed [B,1,T,N] bool or None (causal: N = T, or T = 1) -> [B,H,T,V]."""
    causal = allowed is None and q.shape[2] > 1
    return scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=causal, scale=scale)
