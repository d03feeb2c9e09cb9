"""The product of matrices that corrects its own errors: every few steps the state snaps towards a learned codebook."""

from typing import NamedTuple

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import expect, expect_flags, expect_floating, expect_pair, first_state, identities
from matrixstate.ops._dispatch import implementation


class SnapState(NamedTuple):
    """A running product of norm sqrt(D), and how many steps ago it was last corrected."""

    matrix: Tensor  # [B, H, D, D]
    phase: Tensor  # [B] int32, below `every`


def snap_scan(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    state: SnapState | None = None,
    *,
    every: int,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, SnapState]:
    """A_t = unit(H_{t-1} x_t); H_t = A_t, but at every c-th step H_t = unit(softmax(<A_t, keys>) values).

    unit(A) = A sqrt(D) / |A| per head, so that between two corrections this is the scaled matrix scan, linear in H but
    for its scale. The corrections are not linear: they can contract errors, which no linear recurrence can.

    Sizes: B batch, T sequence, H heads, D order, G groups of heads that are corrected together, M codes per group.

    Args:
        x: [B, T, H, D, D] floating point, T >= 0.
        keys: [G, M, H/G, D, D] floating point, G a divisor of H, M >= 1. A state is compared with them by the inner
            product over the heads of its group; the longer they are, the sharper the softmax.
        values: [G, M, H/G, D, D], dtype of `keys`. A corrected state is a mixture of them.
        state: what the last call returned. Default: the identity at phase 0.
        every: c, at least 1: steps from one correction to the next, counted from the start of a document.
        mask: [B, T] bool, True at real steps. A padded step leaves the state unchanged and is not counted.
        reset: [B, T] bool. True at a document's first step: the state is reset to the identity at phase 0 before it.
        backend: "auto" takes the first that can run: "cpu" (compiled), "reference". A name takes that one or raises.

    Returns:
        h: [B, T, H, D, D], dtype of `x`. H_t, of norm sqrt(D).
        state: `SnapState`, to be passed to the next call; its matrix is at least float32.

    Raises:
        ShapeError: a shape, dtype or device other than the above. BackendUnavailable: no allowed backend can run these.

    Cost: B·T·H·D³ multiply-adds, and 2·B·(T/c)·M·H·D² for the corrections. Between corrections the steps are
    associative; the kernel computes them one after another. x and h are saved for the backward pass.
    Source: the retrieval is that of modern Hopfield networks (Ramsauer et al.); that an affine recurrence which tracks
    exactly cannot contract its errors is argued by Chung et al.
    """
    op = "snap_scan"
    expect_floating(op, "x", x, "B T H D D")
    expect_floating(op, "keys", keys, "G M H/G D D")
    B, T, H, D = x.shape[:4]
    G, M = keys.shape[:2]
    if x.shape[-1] != D or D == 0:
        raise ShapeError(f"{op}: x must be [B, T, H, D, D] with D >= 1, got {list(x.shape)}")
    if G < 1 or M < 1 or H % G:
        raise ShapeError(f"{op}: keys must be [G, M, H/G, D, D] with G a divisor of {H}, got {list(keys.shape)}")
    if every < 1:
        raise ShapeError(f"{op}: every must be at least 1, got {every}")
    expect(op, "keys", keys, (G, M, H // G, D, D), x, keys.dtype)
    expect(op, "values", values, tuple(keys.shape), keys)
    expect_flags(op, x, reset=reset, mask=mask)
    if state is None:
        state = SnapState(identities(x, (B, H, D, D)), torch.zeros(B, dtype=torch.int32, device=x.device))
    expect_pair(op, state, "a SnapState")
    matrix, phase = state
    first_state(op, matrix, (B, H, D, D), x, "state.matrix")
    expect(op, "state.phase", phase, (B,), x, torch.int32)
    run = implementation(op, backend, x.device.type, x.dtype, *_large(H // G, D))
    if T == 0:
        return x.new_zeros(B, 0, H, D, D), SnapState(matrix, phase)
    h, last, after = run(x, keys, values, matrix, phase, every, mask, reset)
    return h, SnapState(last, after)


def _large(heads: int, order: int) -> list[str]:
    """Sizes of a group on which a backend may depend, as details of `implementation`."""
    rounded = [1 << (size - 1).bit_length() for size in (heads, max(order, 16))]
    return [f"{heads} of order {order}"] if rounded[0] * rounded[1] ** 2 > 4096 else []
