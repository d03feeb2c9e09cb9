"""The selective recurrence one chunk of the sequence after another, by `linear_scan`.

The states of a chunk, [n, 64, D, N], are gone before the next: the backward pass computes them again from the state
before the chunk.
"""

from functools import partial

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._operators import needs_gradient
from matrixstate.ops._plain import unsupported
from matrixstate.ops._recompute import recomputed_chunks
from matrixstate.ops.scan import linear_scan

__all__ = ["selective_scan", "unsupported"]


@widened
def selective_scan(
    x: Tensor,
    step: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    run = partial(_chunk, A, skip)
    recompute = needs_gradient(x, step, A, B, C, state)
    return recomputed_chunks(run, (x, step, B, C, reset), state, recompute)


def _chunk(
    A: Tensor,
    skip: Tensor | None,
    x: Tensor,
    step: Tensor,
    B: Tensor,
    C: Tensor,
    reset: Tensor | None,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """y and the state after the chunk; arguments as of the op, in one precision."""
    groups = B.shape[2]
    by_groups = lambda a: a.unflatten(-1, (groups, -1))  # noqa: E731  # [n, T, D] -> [n, T, G, D/G]
    write = (by_groups(step * x)[..., None] * B[..., None, :]).flatten(2, 3)
    h, state = linear_scan(write, log_decay=step[..., None] * A, state=state, reset=reset)
    y = torch.einsum("ntgdk,ntgk->ntgd", h.unflatten(2, (groups, -1)), C).flatten(2)
    return y if skip is None else y + skip * x, state
