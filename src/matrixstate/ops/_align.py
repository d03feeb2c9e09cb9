"""Moves the real steps of every row to the end of the sequence, so that any padding becomes padding on the left."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad


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


def filtered(
    run: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]],
    x: Tensor,
    state: Tensor,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`run(x, state, reset) -> y, state` of a causal filter, with padded steps left out.

    Args:
        run: whose state [B, K-1, C] is the last inputs. It is called once, on rows with all their padding in front.
        x: [B, T, C].
        state: [B, K-1, C].
        mask, reset: [B, T] bool or None.
    """
    if mask is None:
        return run(x, state, reset)
    past = state.shape[1]
    real = pad(mask, (past, 0), value=True)
    order = right_align(real)
    steps = along(torch.cat([state, x.to(state.dtype)], dim=1).masked_fill(~real[..., None], 0), order)
    if reset is not None:
        reset = along(pad(reset & mask, (past, 0)), order)[:, past:]
    y, last = run(steps[:, past:], steps[:, :past], reset)
    return along(pad(y, (0, 0, past, 0)), undo(order))[:, past:].to(x.dtype), last
