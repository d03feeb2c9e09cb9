"""Clamping of a gradient within a recurrence."""

import torch
from torch import Tensor


def clamp_gradient(h: Tensor, where: Tensor, bound: float) -> Tensor:
    """`h` unchanged; in the backward pass its gradient is clamped to [-bound, bound] where `where` is True."""
    return _ClampGradient.apply(h, where, bound)


class _ClampGradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(h, where, bound):
        return h.view_as(h)  # not h itself: autograd would not call backward for an input returned as it is

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, where, ctx.bound = inputs
        ctx.save_for_backward(where)

    @staticmethod
    def backward(ctx, dh):
        (where,) = ctx.saved_tensors
        return torch.where(where, dh.clamp(-ctx.bound, ctx.bound), dh), None, None
