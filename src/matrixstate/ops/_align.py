"""Moves the real steps of every row to the end of the sequence, so that any padding becomes padding on the left."""

import torch
from torch import Tensor


def right_align(real: Tensor) -> Tensor:
    """real [B, N] bool -> order [B, N] int64: the padded steps first, then the real ones, both in their own order."""
    return torch.argsort(real.to(torch.uint8), dim=1, stable=True)


def along(x: Tensor, order: Tensor) -> Tensor:
    """x [B, N, ...] with its steps taken in `order` [B, N]."""
    index = order.reshape(*order.shape, *[1] * (x.ndim - 2)).expand(*order.shape, *x.shape[2:])
    return x.gather(1, index)


def undo(order: Tensor) -> Tensor:
    """The inverse of `order`: it moves every step back to its place."""
    return torch.argsort(order, dim=1)
