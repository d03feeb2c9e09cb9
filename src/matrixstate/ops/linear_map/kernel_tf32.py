"""float32 products on NVIDIA's tensor cores in TF32: factors of 11 significant bits, sums in float32.

PyTorch permits that for all products of a process or for none. Here it is permitted for the time of one product, so
that those inside other ops, of states and decays, keep float32, forward and backward.
"""

from typing import Any

import torch
from torch import Tensor

from matrixstate.ops._operators import differentiable, operator

__all__ = ["linear", "unsupported"]


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """Why such inputs have no TF32; None if they have."""
    if device != "cuda" or dtype != torch.float32:
        return f"needs torch.float32 on cuda, got {dtype} on {device}"
    return None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., K], weight [N, K], bias [N] or None -> [..., N]."""
    y = torch.ops.matrixstate.linear_tf32(x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[0])
    return y if bias is None else y + bias


@operator("linear_tf32", "CUDA", "CPU")  # on a CPU PyTorch's own product, for the tests
def _product(a: Tensor, b: Tensor) -> Tensor:
    """a bᵀ of a [M, K] and b [N, K]."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32"
    try:
        return a @ b.mT
    finally:
        matmul.fp32_precision = before


def _backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Such products again."""
    a, b = ctx.saved_tensors
    product = torch.ops.matrixstate.linear_tf32
    da = product(dy, b.mT) if ctx.needs_input_grad[-2] else None
    return da, product(dy.mT, a.mT) if ctx.needs_input_grad[-1] else None


torch.library.register_fake("matrixstate::linear_tf32", lambda a, b: a.new_empty(a.shape[0], b.shape[0]))
differentiable("linear_tf32", _backward, lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
