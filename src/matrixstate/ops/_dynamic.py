"""Sequences of dynamic length: graphs of torch.export that hold for any number of steps.

A form in chunks has shapes and loops that depend on how many chunks there are, so a graph of it would hold for one
length alone. Where the length is dynamic, the form of a single chunk, whose sizes are fixed, becomes the body of
PyTorch's scan operator. That operator is private to PyTorch and is used here only: in a release without it such an
export fails with an ImportError, and nothing else changes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def is_dynamic(length: int) -> bool:
    """Whether a length stands for any number in the graph that is being traced."""
    return isinstance(length, torch.SymInt)


def over_chunks(
    run: Callable[..., tuple[Tensor, Tensor]], inputs: Sequence[Tensor | None], state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """run(*inputs, state) -> (y, state) for one chunk of the sequence after another.

    Args:
        run: whose padded steps, all zeros, change no state.
        inputs: [B, T, ...] each, or None.
        state: before the first chunk.
        chunk: steps per chunk.

    Returns:
        y: [B, T, ...].
        state: after the last step.
    """
    from torch._higher_order_ops.scan import scan

    given = [i for i, x in enumerate(inputs) if x is not None]
    T = next(x.shape[1] for x in inputs if x is not None)
    n = (T + chunk - 1) // chunk + 1  # one too many: of sizes that may be 1 a graph assumes that they are not

    def step(S: Tensor, parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        filled: list[Tensor | None] = [None] * len(inputs)
        for i, part in zip(given, parts, strict=True):
            filled[i] = part
        y, S = run(*filled, S)
        return S.contiguous(), y.contiguous()

    # gathers, for padding and slices would ask how n·chunk and T compare
    steps = torch.arange(n * chunk, device=state.device).view(n, chunk)
    padding = (steps >= T).view(n, 1, chunk)

    def split(x: Tensor) -> Tensor:
        """[B, T, ...] -> [n, B, chunk, ...], zeros after the last step."""
        parts = x.transpose(0, 1)[steps.clamp_max(T - 1)].transpose(1, 2)
        return parts.masked_fill(padding.view(n, 1, chunk, *(1,) * (x.ndim - 2)), 0).contiguous()

    last, y = scan(step, state.contiguous(), tuple(split(x) for x in inputs if x is not None))
    t = torch.arange(T, device=state.device)
    return y.transpose(1, 2)[t // chunk, t % chunk].transpose(0, 1), last
