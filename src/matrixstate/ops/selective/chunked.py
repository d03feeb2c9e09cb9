"""The selective recurrence one chunk of the sequence after another, by `linear_scan`.

The states of a chunk, [n, CHUNK, D, N], are gone before the next: the backward pass computes them again from the state
before the chunk.
"""

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from matrixstate.ops._checks import widened
from matrixstate.ops._dynamic import is_dynamic
from matrixstate.ops._operators import needs_gradient
from matrixstate.ops._plain import unsupported
from matrixstate.ops.scan import linear_scan

__all__ = ["selective_scan", "unsupported"]

CHUNK = 64  # steps


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
    T = x.shape[1]
    if is_dynamic(T) or T <= CHUNK:  # a graph of a dynamic length takes the sequence for one chunk
        return _chunk(x, step, A, B, C, skip, state, reset)
    keeps = needs_gradient(x, step, A, B, C, state)
    out = []
    for begin in range(0, T, CHUNK):
        part = slice(begin, begin + CHUNK)
        inputs = (x[:, part], step[:, part], A, B[:, part], C[:, part], skip, state, _part(reset, part))
        run = partial(checkpoint, _chunk, use_reentrant=False, preserve_rng_state=False) if keeps else _chunk
        y, state = run(*inputs)  # type: ignore[misc]
        out.append(y)
    return torch.cat(out, dim=1), state


def _part(reset: Tensor | None, part: slice) -> Tensor | None:
    return None if reset is None else reset[:, part]


def _chunk(
    x: Tensor,
    step: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y and the state after the chunk; arguments as of the op, in one precision."""
    groups = B.shape[2]
    by_groups = lambda a: a.unflatten(-1, (groups, -1))  # noqa: E731  # [n, T, D] -> [n, T, G, D/G]
    write = (by_groups(step * x)[..., None] * B[..., None, :]).flatten(2, 3)
    h, state = linear_scan(write, log_decay=step[..., None] * A, state=state, reset=reset)
    y = torch.einsum("ntgdk,ntgk->ntgd", h.unflatten(2, (groups, -1)), C).flatten(2)
    return y if skip is None else y + skip * x, state
