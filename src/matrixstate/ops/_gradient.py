"""An identity whose backward pass clamps the gradient."""

import torch
from torch import Tensor


def clamp_gradient(h: Tensor, where: Tensor, bound: float) -> Tensor:
    """`h` unchanged; in the backward pass its gradient is clamped to [-bound, bound] `where` that is true."""
    return _ClampGradient.apply(h, where, bound)


class _ClampGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, where, bound):
        ctx.save_for_backward(where)
        ctx.bound = bound
        return h.view_as(h)

    @staticmethod
    def backward(ctx, dh):
        (where,) = ctx.saved_tensors
        return torch.where(where, dh.clamp(-ctx.bound, ctx.bound), dh), None, None
