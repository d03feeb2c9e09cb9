"""Moving the real steps of every row to the end of the sequence, so that padding anywhere is padding on the left."""

import torch
from torch import Tensor


def right_align(real: Tensor) -> Tensor:
    """real [B, N] bool -> order [B, N] int64: the padded steps first, then the real ones, each in their order."""
    return torch.argsort(real.to(torch.uint8), dim=1, stable=True)


def along(x: Tensor, order: Tensor) -> Tensor:
    """x [B, N, ...] with its steps taken in `order` [B, N]."""
    index = order.reshape(*order.shape, *[1] * (x.ndim - 2)).expand(*order.shape, *x.shape[2:])
    return x.gather(1, index)


def undo(order: Tensor) -> Tensor:
    """The order that puts every step back where it was."""
    return torch.argsort(order, dim=1)
