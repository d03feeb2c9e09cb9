"""Recurrences whose states are N times larger than what they read and write: one chunk of the sequence after another.

The states of a chunk are gone before the next: the backward pass computes them again from the state before the chunk.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from matrixstate.ops._dynamic import is_dynamic

CHUNK = 64  # steps


def recomputed_chunks(
    run: Callable[..., tuple[Tensor, Tensor]], inputs: Sequence[Tensor | None], state: Tensor | None, recompute: bool
) -> tuple[Tensor, Tensor]:
    """run(*inputs, state) -> (y, state) for one chunk of the sequence after another.

    Args:
        run: the recurrence over any number of steps.
        inputs: [B, T, ...] each, or None; the first is a tensor, T >= 1.
        state: before the first step, as `run` takes it.
        recompute: whether a backward pass will follow, see `needs_gradient`.

    Returns:
        y: [B, T, ...].
        state: after the last step.

    A graph of a dynamic length takes the sequence for one chunk.
    """
    first = inputs[0]
    assert first is not None
    T = first.shape[1]
    if is_dynamic(T) or T <= CHUNK:
        return run(*inputs, state)
    out = []
    for begin in range(0, T, CHUNK):
        parts = [None if x is None else x[:, begin : begin + CHUNK] for x in inputs]
        if recompute:
            y, state = checkpoint(run, *parts, state, use_reentrant=False, preserve_rng_state=False)  # type: ignore[misc]
        else:
            y, state = run(*parts, state)
        out.append(y)
    assert state is not None
    return torch.cat(out, dim=1), state
