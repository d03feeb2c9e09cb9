"""Causal convolution with a filter as long as the sequence, by the fast Fourier transform."""

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._align import filtered
from matrixstate.ops._checks import expect, expect_flags, expect_floating, first_state
from matrixstate.ops._dispatch import implementation


def long_conv(
    u: Tensor,
    kernel: Tensor,
    state: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """y_t = sum over lags l < L of kernel[:, l] * u_{t-l}, channel by channel.

    `causal_conv` with its weight in the order of lags (kernel[:, 0] multiplies the current step), for filters of
    hundreds of steps.

    Sizes: B batch, T sequence, D channels, L filter length, which may be less or more than T.

    Args:
        u: [B, T, D] floating point, T >= 0.
        kernel: [D, L] floating point, L >= 1.
        state: [B, L-1, D], dtype of `u` but at least float32. The last L-1 inputs. Default: zeros.
        mask: [B, T] bool, True at real steps. A padded step is left out: it neither reads nor shifts the state, and its
            y is undefined. Default: all real.
        reset: [B, T] bool. True at a document's first step: no input before it is read. Ignored at padded steps.
        backend: "fft" (without `reset`), "reference" (a sum over lags), or "auto": the first that can run. So packed
            documents are convolved directly.

    Returns:
        y: [B, T, D], dtype of `u`. Sums are in at least float32. By "fft" its error is relative to the largest y of a
            channel, so an input changes earlier outputs by rounding.
        state: [B, L-1, D], at least float32. The last L-1 inputs of the current document, zeros before it.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: "fft" three transforms of at least T + L - 1 steps per channel, "reference" B·T·D·L multiply-adds.
    Sources: Gu et al. 2022, "Efficiently Modeling Long Sequences with Structured State Spaces" (convolution by FFT).
    """
    op = "long_conv"
    expect_floating(op, "u", u, "B T D")
    expect_floating(op, "kernel", kernel, "D L")
    B, T, D = u.shape
    L = kernel.shape[1]
    if L == 0:
        raise ShapeError(f"{op}: kernel must be [D, L] with L >= 1, got {list(kernel.shape)}")
    expect(op, "kernel", kernel, (D, L), u, kernel.dtype)
    expect_flags(op, u, mask=mask, reset=reset)
    state = first_state(op, state, (B, L - 1, D), u)
    run = implementation(op, backend, u.device.type, u.dtype, *([] if reset is None else ["reset"]))
    if T == 0:
        return torch.zeros_like(u), state
    return filtered(lambda u, past, starts: run(u, kernel, past, starts), u, state, mask, reset)
