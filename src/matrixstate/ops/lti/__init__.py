"""Time-invariant state space models with a diagonal transition and one input per channel."""

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import expect_flags, expect_floating, first_state
from matrixstate.ops._dispatch import implementation


def lti_scan(
    u: Tensor,
    log_decay: Tensor,
    weight: Tensor,
    *,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h_t = e^λ h_{t-1} + u_t, y_t = Re Σ_n w_n h_tn: N states per channel, all driven by the channel's input.

    A model h = a h + b u, y = Re(c·h) has λ = log a and w = b c; its states are b times those here.

    Sizes: B batch, T sequence, D channels, N states of a channel.

    Args:
        u: [B, T, D] floating point, T >= 0.
        log_decay: [D, N] complex or real, λ; its real part <= 0 (not checked). At least float32 or complex64.
        weight: [D, N], w, dtype of `log_decay`.
        state: [B, D, N], h_0, complex or real as `log_decay`, at least complex64 or float32. Default: zeros.
        mask: [B, T] bool, True at real steps. A padded step leaves the state unchanged. Default: all real.
        reset: [B, T] bool. True at a document's first step: the state is reset to zeros before it. Ignored at padded
            steps.
        backend: "chunked" (products of matrices chunk by chunk, for any device; with `mask` or `reset` by
            `linear_scan`), "reference", or "auto": the first.

    Returns:
        y: [B, T, D], dtype of `u`. Sums are in at least float32.
        state: [B, D, N]. h_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: "chunked" about 64 + 8 N multiply-adds per channel and step and no state per step; with `mask` or `reset`
    B·T·D·N complex numbers are held.
    Sources: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models" (S4D).
    """
    op = "lti_scan"
    expect_floating(op, "u", u, "B T D")
    B, T, D = u.shape
    for name, given in (("log_decay", log_decay), ("weight", weight)):
        fits = given.ndim == 2 and len(given) == D and given.device == u.device and given.dtype == log_decay.dtype
        if not fits or given.shape != log_decay.shape or given.element_size() < 4:
            wanted = f"{log_decay.dtype} [{D}, N] on {u.device}, at least float32 or complex64"
            raise ShapeError(f"{op}: {name} must be {wanted}, got {given.dtype} {list(given.shape)} on {given.device}")
    expect_flags(op, u, mask=mask, reset=reset)
    reset = reset if reset is None or mask is None else reset & mask
    state = first_state(op, state, (B, D, log_decay.shape[1]), log_decay)
    run = implementation(op, backend, u.device.type, u.dtype)
    if T == 0:
        return torch.zeros_like(u), state
    return run(u, log_decay, weight, state, mask, reset)
