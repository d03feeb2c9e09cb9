"""Time-invariant state space models with a dense transition and one input per channel."""

from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import expect_flags, expect_floating, first_state
from matrixstate.ops._dispatch import implementation


def dense_lti_scan(
    u: Tensor,
    transition: Tensor,
    write: Tensor,
    readout: Tensor,
    *,
    state: Tensor | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h_t = A h_{t-1} + b u_t, y_t = C h_t: N states per channel, driven by the channel's input, A any matrix.

    For transitions that must not be diagonalised, as those of HiPPO, whose eigenvectors are nearly parallel; where they
    may be, `lti_scan` is faster. A complex system of conjugate pairs is a real one of the real and imaginary parts.

    Sizes: B batch, T sequence, D channels, N states of a channel, M outputs of a channel.

    Args:
        u: [B, T, D] floating point, T >= 0.
        transition: [D, N, N] or, shared by all channels, [1, N, N]: A. At least float32.
        write: [D, N] or [1, N], dtype of `transition`: b.
        readout: [D, M, N] or [1, M, N], dtype of `transition`: C.
        state: [B, D, N], dtype of `transition`. h_0. Default: zeros.
        mask: [B, T] bool, True at real steps. A padded step leaves the state unchanged. Default: all real.
        reset: [B, T] bool. True at a document's first step: the state is reset to zeros before it. Ignored at padded
            steps.
        backend: "chunked" (products of matrices chunk by chunk, for any device; with `mask` step by step),
            "reference", or "auto": the first.

    Returns:
        y: [B, T, D, M], dtype of `u`. Sums are in the dtype of `transition`.
        state: [B, D, N]. h_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: "chunked" about (64 + N) (M + 1) multiply-adds per channel and step, and for each of the D or 1 transitions
    6 N³ in float64 for its powers; no state per step. With `reset` 64 B·T·M numbers are held for each transition. With
    `mask`, and "reference", N² per channel and step, one step after another, and B·T·D·N numbers are held.
    Sources: Gu et al. 2021, "Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space
    Layers" (LSSL).
    """
    op = "dense_lti_scan"
    expect_floating(op, "u", u, "B T D")
    expect_floating(op, "transition", transition, "D N N")
    B, T, D = u.shape
    N = transition.shape[2]
    M = readout.shape[1] if isinstance(readout, Tensor) and readout.ndim == 3 else 1
    for name, given, sizes in (
        ("transition", transition, (N, N)),
        ("write", write, (N,)),
        ("readout", readout, (M, N)),
    ):
        fits = given.shape in ((1, *sizes), (D, *sizes)) and given.device == u.device
        if not fits or given.dtype != transition.dtype or given.element_size() < 4:
            wanted = f"{transition.dtype} {[D, *sizes]} or {[1, *sizes]} on {u.device}, at least float32"
            raise ShapeError(f"{op}: {name} must be {wanted}, got {given.dtype} {list(given.shape)} on {given.device}")
    expect_flags(op, u, mask=mask, reset=reset)
    reset = reset if reset is None or mask is None else reset & mask
    state = first_state(op, state, (B, D, N), transition)
    run = implementation(op, backend, u.device.type, u.dtype)
    if T == 0:
        return u.new_zeros(B, 0, D, M), state
    return run(u, transition, write, readout, state, mask, reset)
