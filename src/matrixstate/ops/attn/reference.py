"""The definition of attention: softmax of scaled products over the allowed keys. Its gradient is autograd's."""

import torch
from torch import Tensor

from matrixstate.ops._checks import accumulation_dtype, full_precision
from matrixstate.ops._plain import unsupported
from matrixstate.ops.attn.layout import heads_first

__all__ = ["attention", "unsupported"]


def attention(
    q: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    """q [B,T,H,K], keys [B,N,G,K], values [B,N,G,V] with the T new steps last, allowed [B,1,T,N] bool, or None where
    every step sees all up to itself and either N = T or T = 1, bias [B,H,T,N], at least float32, added to the scores,
    or None -> y [B,T,H,V] in the dtype of q. With a bias, `allowed` is given.
    """
    with full_precision(q):
        queries, keys, values = heads_first(q, keys, values, accumulation_dtype(q.dtype))
        T, N = q.shape[1], keys.shape[2]
        if allowed is None:
            allowed = torch.ones(T, N, dtype=torch.bool, device=q.device).tril(N - T)
        scores = queries @ keys.mT * scale
        scores = (scores if bias is None else scores + bias).masked_fill(~allowed, float("-inf"))
        y = scores.softmax(dim=-1) @ values
    return y.transpose(1, 2).to(q.dtype)
