"""The selective state space recurrence of Mamba: a state per channel whose steps depend on the token."""

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import (
    expect,
    expect_any,
    expect_flags,
    expect_floating,
    expect_optional,
    first_state,
)
from matrixstate.ops._dispatch import implementation


def selective_scan(
    x: Tensor,
    step: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    skip: Tensor | None = None,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h_t = e^{Δ_t A} h_{t-1} + Δ_t x_t B_t, y_t = h_t·C_t + D x_t: N states per channel, elementwise.

    Sizes: n batch, T sequence, D channels, N states of a channel, G groups of channels (G divides D; channel d has the
    B and C of group d // (D/G)).

    Args:
        x: [n, T, D] floating point, T >= 0.
        step: [n, T, D], Δ >= 0 (not checked), dtype of `x` or float32. A step of 0 leaves the state as it is.
        A: [D, N], rates, <= 0 (not checked); any precision.
        B: [n, T, G, N], dtype of `x`.
        C: [n, T, G, N], dtype of `x`.
        skip: [D], the paper's D. Default: zeros.
        state: [n, D, N], dtype of `x` but at least float32. h_0. Default: zeros.
        reset: [n, T] bool. True at a document's first step: the state is reset to zeros before it.
        backend: "chunked" (one chunk of the sequence after another, for any device), "reference", or "auto": the first.

    Returns:
        y: [n, T, D], dtype of `x`. Sums are in at least float32.
        state: [n, D, N], at least float32. h_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: n·T·D·N exponentials and three times as many multiply-adds. "chunked" never holds more than one chunk's
    [n, 64, D, N] and, for the backward pass, the states between chunks; it computes every chunk twice.
    Source: Gu & Dao 2023, "Mamba" (A discretised exactly, B by Euler's rule, as in the authors' code).
    """
    op = "selective_scan"
    expect_floating(op, "x", x, "B T D")
    n, T, D = x.shape
    expect_any(op, "step", step, x, (n, T, D))
    expect_floating(op, "A", A, "D N")
    N = A.shape[1]
    expect_any(op, "A", A, x, (D, N))
    expect_floating(op, "B", B, "B T G N")
    G = B.shape[2]
    if G == 0 or D % G:
        raise ShapeError(f"{op}: the groups of B must divide the {D} channels of x, got {G}")
    expect(op, "B", B, (n, T, G, N), x)
    expect(op, "C", C, (n, T, G, N), x)
    expect_optional(op, "skip", skip, x, (D,))
    expect_flags(op, x, reset=reset)
    state = first_state(op, state, (n, D, N), x)
    run = implementation(op, backend, x.device.type, x.dtype)
    if T == 0:
        return torch.zeros_like(x), state
    return run(x, step, A, B, C, skip, state, reset)
