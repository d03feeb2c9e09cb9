"""Any recurrent cell, as a function of its state and inputs, along a sequence; and some cells as such functions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import accumulation_dtype, expect, expect_clip, expect_flags, full_precision
from matrixstate.ops._gradient import clamp_gradient

State = tuple[Tensor, ...]
Cell = Callable[..., State]  # cell(*state, *inputs of a step) -> state


def cell_scan(
    cell: Cell,
    inputs: Sequence[Tensor],
    state: Sequence[Tensor],
    *,
    grad_clip: float | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, State]:
    """state_t = cell(*state_{t-1}, *inputs_t), one step after another; y_t is the first tensor of state_t.

    For cells that have no op of their own, and for a user's. The step is any function of tensors, with weights that it
    closes over; it is given and gives at least float32.

    Sizes: B batch, T sequence; further axes as the cell has them.

    Args:
        cell: takes the tensors of a state [B, ...] and then those of a step's inputs [B, ...], and returns a state of
            the same number, shapes and dtypes.
        inputs: tensors [B, T, ...], one floating dtype, at least one; T >= 0.
        state: tensors [B, ...], at least float32: the state before the first step, zeros after a reset.
        grad_clip: c > 0. In the backward pass the whole gradient of each state is clamped elementwise to [-c, c] once.
        mask: [B, T] bool, True at real steps. A padded step leaves the state unchanged, bit for bit. Default: all real.
        reset: [B, T] bool. True at a document's first step: every tensor of the state is set to zeros before it.
            Ignored at padded steps.

    Returns:
        y: [B, T, ...], dtype of the inputs.
        state: after the last step, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or a cell that returns another state.

    Cost: T calls of the cell. There is no compiled form; `rnn_scan`, `gru_scan` and `lstm_scan` have one.
    """
    op = "cell_scan"
    if not inputs or not state:
        raise ShapeError(f"{op}: inputs and state must have a tensor at least, got {len(inputs)} and {len(state)}")
    first, dtype = inputs[0], accumulation_dtype(inputs[0].dtype)
    B, T = first.shape[:2]
    for i, x in enumerate(inputs):
        expect(op, f"inputs[{i}]", x, (B, T, *x.shape[2:]), first)
    for i, s in enumerate(state):
        expect(op, f"state[{i}]", s, (B, *s.shape[1:]), first, dtype)
    expect_clip(op, grad_clip)
    expect_flags(op, first, mask=mask, reset=reset)
    reset = reset if reset is None or mask is None else reset & mask
    state, rows = tuple(state), []
    with full_precision(first):
        for t, now in enumerate(zip(*(x.to(dtype).unbind(dim=1) for x in inputs), strict=True)):
            if reset is not None:
                state = tuple(s.masked_fill(_like(reset[:, t], s), 0) for s in state)
            after = cell(*state, *now)
            if t == 0:
                _expect_state(op, after, state)
            if grad_clip is not None:
                after = tuple(clamp_gradient(s, torch.ones_like(s, dtype=torch.bool), grad_clip) for s in after)
            if mask is not None:  # selected, not multiplied: so it is the identity even beside a NaN
                after = tuple(torch.where(_like(mask[:, t], a), a, s) for a, s in zip(after, state, strict=True))
            state = after
            rows.append(state[0])
    if not rows:
        return first.new_zeros(B, 0, *state[0].shape[1:]), state
    return torch.stack(rows, dim=1).to(first.dtype), tuple(s.contiguous() for s in state)


def _like(flags: Tensor, state: Tensor) -> Tensor:
    """flags [B] with the axes of `state`."""
    return flags.view(-1, *[1] * (state.ndim - 1))


def _expect_state(op: str, found: State, wanted: State) -> None:
    sizes = [[(list(s.shape), s.dtype) for s in part] for part in (found, wanted)]
    if sizes[0] != sizes[1]:
        raise ShapeError(f"{op}: cell must return a state like the one it was given, {sizes[1]}, got {sizes[0]}")


def times(h: Tensor, w: Tensor) -> Tensor:
    """h [B, H, d] times w [H, d, d], head by head, in the dtype of h."""
    return torch.einsum("bhd,hde->bhe", h, w.to(h.dtype))
