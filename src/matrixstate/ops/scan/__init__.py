"""The linear recurrence of every channel by itself, with a decay that is constant or changes from step to step."""

from typing import TypeGuard

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import expect_flags, first_state
from matrixstate.ops._dispatch import implementation
from matrixstate.ops.matrix.schedules import SCHEDULES

METHODS = ("auto", *SCHEDULES, "fft")


def linear_scan(
    x: Tensor,
    *,
    decay: Tensor | None = None,
    log_decay: Tensor | None = None,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    method: str = "auto",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h_t = a_t h_{t-1} + x_t along the sequence, elementwise.

    Sizes: B batch, T sequence; further axes, usually heads and channels, as many as there are.

    The decay a_t is given as `decay` or by its logarithm, exactly one of them, for every step [B, T, ...] or constant
    over time [...], where [...] are the further axes of `x`. Each of these may have size 1: the decay is then shared
    along that axis. So with x [B, T, H, N], a decay per head and step is [B, T, H, 1], and a constant one per channel
    and head is [H, N].

    Args:
        x: [B, T, ...] floating point or complex, T >= 0.
        decay: real with any sign, or complex where `x` is. Any precision; products are formed in that of the state.
        log_decay: natural logarithm of a decay in [0, 1], real, <= 0 (which is not checked); -inf is a decay of 0.
        state: [B, ...], dtype of `x` but at least float32. h_0. Default: zeros.
        reset: [B, T] bool. True at a document's first step: the state is reset to zeros before it.
        method: "sequential", or the order in which the prefixes of the products are formed, see `matrix.schedules`, or
            "fft": a convolution with the powers of a constant decay, without `reset`. All agree to rounding; the error
            of "fft" is relative to the largest h of a channel. "auto" is "sequential" in the kernel and the
            reference, "chunked" in the chunked form.
        backend: "cpu" (compiled: "sequential"), "triton" (for GPUs: "sequential", real numbers), "chunked" (all chunks
            at once, for any device), "reference" (every method), or "auto": the first of them that can run.

    Returns:
        h: [B, T, ...], dtype of `x`. Every h_t. Sums are in at least float32.
        state: [B, ...], at least float32. h_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above, both decays or none, or an unknown method.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: one multiply-add per element; memory bandwidth limits it. For the backward pass the decays and h are saved (x
    and a state every few steps by the kernel in bfloat16); every method divides by nothing.
    Sources: Martin & Cundy 2018 (linear recurrences by parallel scans); Gu et al. 2022, S4D (constant decays, fft);
    Orvieto et al. 2023, LRU; De et al. 2024, Griffin.
    """
    op = "linear_scan"
    given = _check(op, x, decay, log_decay, method)
    expect_flags(op, x, reset=reset)
    if method == "fft" and reset is not None:
        raise ShapeError(f'{op}: reset must be None with method "fft", got {list(reset.shape)}')
    state = first_state(op, state, (x.shape[0], *x.shape[2:]), x)
    run = implementation(op, backend, x.device.type, x.dtype, method)
    if x.shape[1] == 0:
        return torch.zeros_like(x), state
    return run(x, given, decay is None, state, reset, method)


def _check(op: str, x: Tensor, decay: Tensor | None, log_decay: Tensor | None, method: str) -> Tensor:
    """Checks all inputs but the state and the resets; returns the decay that is given, or its logarithm."""
    if not isinstance(x, Tensor) or x.ndim < 2 or not (x.is_floating_point() or x.is_complex()):
        got = f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else repr(x)
        raise ShapeError(f"{op}: x must be floating point or complex [B, T, ...], got {got}")
    if (decay is None) == (log_decay is None):
        raise ShapeError(f"{op}: one of decay and log_decay must be given, got {'none' if decay is None else 'both'}")
    if method not in METHODS:
        raise ShapeError(f"{op}: method must be one of {', '.join(METHODS)}, got {method!r}")
    name, given = ("log_decay", log_decay) if decay is None else ("decay", decay)
    complex_too, (B, T, *sizes) = name == "decay" and x.is_complex(), x.shape
    if not _fits(given, x, complex_too):
        kind = "floating point or complex" if complex_too else "floating point"
        got = f"{given.dtype} {list(given.shape)} on {given.device}" if isinstance(given, Tensor) else repr(given)
        raise ShapeError(
            f"{op}: {name} must be {kind} {sizes} or {[B, T, *sizes]}, with 1 for an axis after B and T where it is "
            f"shared, on {x.device}, got {got}"
        )
    if method == "fft" and given.ndim == x.ndim:
        raise ShapeError(f'{op}: {name} must be constant, {sizes}, with method "fft", got {list(given.shape)}')
    return given


def _fits(decay: Tensor | None, x: Tensor, complex_too: bool) -> TypeGuard[Tensor]:
    """Whether `decay` has the axes of x, or those after B and T alone, the latter of its size or 1."""
    if not isinstance(decay, Tensor) or decay.device != x.device or decay.ndim not in (x.ndim, x.ndim - 2):
        return False
    leading, sizes = (decay.shape[:2], decay.shape[2:]) if decay.ndim == x.ndim else (x.shape[:2], decay.shape)
    fits = leading == x.shape[:2] and all(n in (1, size) for n, size in zip(sizes, x.shape[2:], strict=True))
    return fits and (decay.is_floating_point() or (complex_too and decay.is_complex()))
