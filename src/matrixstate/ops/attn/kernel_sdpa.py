"""PyTorch's fused scaled-dot-product attention; it has no double backward on a CPU."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from matrixstate.ops._checks import full_precision
from matrixstate.ops._plain import unsupported
from matrixstate.ops.attn.layout import heads_first

__all__ = ["attention", "unsupported"]


def attention(q: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    """As the reference, in the dtype of q: the fused form accumulates in float32 itself."""
    with full_precision(q):
        queries, keys, values = heads_first(q, keys, values, q.dtype)
        # PyTorch's causal mask is aligned at the first key, so it is right for N = T alone; a single step needs none.
        causal = False
        if allowed is None and q.shape[1] > 1:  # a branch, which tracers of a dynamic length decide here: it is >= 2
            causal = True
        y = scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, is_causal=causal, scale=scale)
    return y.transpose(1, 2)
