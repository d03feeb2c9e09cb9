"""Scans of matrices along the sequence: the product of the MRU, and the most general linear recurrence."""

from typing import NamedTuple

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import (
    accumulation_dtype,
    expect,
    expect_flags,
    expect_floating,
    expect_pair,
    first_state,
    identities,
)
from matrixstate.ops._dispatch import implementation
from matrixstate.ops.matrix.schedules import SCHEDULES

METHODS = ("auto", *SCHEDULES)


class ScaledState(NamedTuple):
    """The state H = matrix·2^exponent of `scaled_matrix_scan`."""

    matrix: Tensor  # [B, H, R, D], largest entry in [1/2, 1); its gradient is that of H·2^-exponent
    exponent: Tensor  # [B, H] int32, not differentiable


def matrix_scan(
    x: Tensor,
    v: Tensor | None = None,
    state: Tensor | None = None,
    *,
    reset: Tensor | None = None,
    method: str = "auto",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """H_t = H_{t-1} x_t (+ v_t) along the sequence.

    Sizes: B batch, T sequence, H heads, D order of x, R rows of the state.

    Args:
        x: [B, T, H, D, D] floating point, T >= 0.
        v: [B, T, H, R, D], dtype of `x`. Added at every step. Default: nothing is added.
        state: [B, H, R, D], dtype of `x` but at least float32. H_0. Default: zeros where `v` is given, else the
            identity (R = D).
        reset: [B, T] bool. True at a document's first step: the state is reset to the default before it. Without `v`
            this requires R = D.
        method: the order of the products, see `schedules`; all agree to rounding. "auto" is "sequential" on a CPU
            and up to T = 16, which does the least work (B·T·H·R·D² multiply-adds), and "brent_kung" elsewhere; the
            kernels take it for "sequential". They have that and, on GPUs, "chunked" for few heads and rows of the
            batch: "auto" as backend takes the reference for the others.
        backend: "auto" takes the first that can run; a name from `OPS` takes that one or raises.

    Returns:
        h: [B, T, H, R, D], dtype of `x`. Every H_t. Sums are in at least float32.
        state: [B, H, R, D], at least float32. H_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or an unknown method.
        BackendUnavailable: no allowed backend can run these inputs.

    Only x and h are saved for the backward pass; that of the reference is differentiable again. Norms of long products
    overflow or vanish: without `v`, use `scaled_matrix_scan` for them.
    Source: M. Levi, mru-lm, README, "Explanation" and "Efficient Scan".
    """
    op = "matrix_scan"
    B, T, H, D = _check(op, x, reset, method)
    R = D
    if v is not None:
        expect_floating(op, "v", v, "B T H R D")
        R = v.shape[-2]
        expect(op, "v", v, (B, T, H, R, D), x)
    elif state is not None:
        expect_floating(op, "state", state, "B H R D")
        R = state.shape[-2]
        if reset is not None and R != D:
            raise ShapeError(f"{op}: reset without v needs a state of R = D = {D} rows, got R = {R}")
    if state is None and v is None:
        state = identities(x, (B, H, D, D))
    state = first_state(op, state, (B, H, R, D), x)
    run = implementation(op, backend, x.device.type, x.dtype, method, *_large(D=D))
    if T == 0:
        return x.new_zeros(B, 0, H, R, D), state
    return run(x, v, state, reset, method)


def scaled_matrix_scan(
    x: Tensor,
    state: ScaledState | None = None,
    *,
    reset: Tensor | None = None,
    method: str = "auto",
    backend: str = "auto",
) -> tuple[Tensor, Tensor, ScaledState]:
    """The running product H_t = H_{t-1} x_t as a matrix of constant norm and the log of its scale; never overflows.

    H_t = e^{log_scale_t} h_t exactly, with |h_t| = sqrt(D) in the Frobenius norm (that of the identity).

    Sizes: B batch, T sequence, H heads, D order of x, R rows of the state.

    Args:
        x: [B, T, H, D, D] floating point, T >= 0.
        state: what the last call returned. Default: the identity, R = D.
        reset: [B, T] bool. True at a document's first step: the state is reset to the identity before it. Requires
            R = D.
        method, backend: as in `matrix_scan`.

    Returns:
        h: [B, T, H, R, D], dtype of `x`. H_t scaled to norm sqrt(D); zeros where H_t is exactly zero.
        log_scale: [B, T, H], at least float32, natural logarithm. Its increments are the growth per step.
        state: `ScaledState`, to be passed to the next call.

    Raises:
        ShapeError, BackendUnavailable: as `matrix_scan`.

    Cost: that of `matrix_scan` and one pass over h. The state is rescaled at every step by a power of two, which is
    exact: the products are those of the plain scan wherever that does not overflow. h and log_scale are differentiable,
    on the reference any number of times; the gradient of x does not depend on how H is split between them.
    """
    op = "scaled_matrix_scan"
    B, T, H, D = _check(op, x, reset, method)
    if state is None:
        state = ScaledState(identities(x, (B, H, D, D)), x.new_zeros(B, H, dtype=torch.int32))
    expect_pair(op, state, "a ScaledState")
    matrix, exponent = state
    expect_floating(op, "state.matrix", matrix, "B H R D")
    R = matrix.shape[-2]
    first_state(op, matrix, (B, H, R, D), x, "state.matrix")
    expect(op, "state.exponent", exponent, (B, H), x, torch.int32)
    if reset is not None and R != D:
        raise ShapeError(f"{op}: reset needs a state of R = D = {D} rows, got R = {R}")
    run = implementation(op, backend, x.device.type, x.dtype, method, *_large(D=D, R=R))
    if T == 0:
        no_scales = x.new_zeros(B, 0, H, dtype=accumulation_dtype(x.dtype))
        return x.new_zeros(B, 0, H, R, D), no_scales, ScaledState(matrix, exponent)
    h, log_scale, matrix, exponent = run(x, matrix, exponent, reset, method)
    return h, log_scale, ScaledState(matrix, exponent)


def _check(op: str, x: Tensor, reset: Tensor | None, method: str) -> tuple[int, int, int, int]:
    """Checks what both scans share; returns B, T, H, D."""
    expect_floating(op, "x", x, "B T H D D")
    if x.shape[-1] != x.shape[-2] or x.shape[-1] == 0:
        raise ShapeError(f"{op}: x must be [B, T, H, D, D] with D >= 1, got {list(x.shape)}")
    expect_flags(op, x, reset=reset)
    if method not in METHODS:
        raise ShapeError(f"{op}: method must be one of {', '.join(METHODS)}, got {method!r}")
    B, T, H, D, _ = x.shape
    return B, T, H, D


def _large(**sizes: int) -> list[str]:
    """The sizes on which a backend may depend, as details of `implementation`."""
    return [f"{name} > 64" for name, size in sizes.items() if size > 64]
