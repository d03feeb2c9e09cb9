"""PyTorch's fused scaled-dot-product attention; it has no double backward on a CPU."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from matrixstate.ops._checks import accumulation_dtype, full_precision
from matrixstate.ops._plain import unsupported
from matrixstate.ops.attn.layout import heads_first

__all__ = ["attention", "unsupported"]


def attention(
    q: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, bias: Tensor | None, scale: float
) -> Tensor:
    """As the reference, in the dtype of q: the fused form accumulates in float32 itself."""
    with full_precision(q):
        dtype = q.dtype if bias is None else accumulation_dtype(q.dtype)  # of the bias, which bfloat16 would round
        queries, keys, values = heads_first(q, keys, values, dtype)
        # PyTorch's causal mask is aligned at the first key, so it is right for N = T alone; a single step needs none.
        causal = False
        if allowed is None and q.shape[1] > 1:  # a branch, which tracers of a dynamic length decide here: it is >= 2
            causal = True
        added = allowed if bias is None or allowed is None else bias.masked_fill(~allowed, float("-inf"))
        y = scaled_dot_product_attention(queries, keys, values, attn_mask=added, is_causal=causal, scale=scale)
    return y.transpose(1, 2).to(q.dtype)
