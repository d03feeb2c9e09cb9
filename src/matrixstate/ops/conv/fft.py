"""The long convolution by the fast Fourier transform, without resets."""

import torch
from torch import Tensor
from torch.fft import irfft, rfft

from matrixstate.ops._checks import widened

__all__ = ["long_conv", "unsupported"]


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """Why it cannot run such inputs; None if it can."""
    return "has no resets in the middle of a transform" if "reset" in details else None


@widened
def long_conv(u: Tensor, kernel: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """As the reference, with `reset` None."""
    past, T = state.shape[1], u.shape[1]
    inputs = torch.cat([state, u], dim=1)
    # A transform of n steps is circular: what it wraps around reaches the outputs of the state alone, and is dropped.
    n = 1 << (past + T - 1).bit_length()
    spectrum = rfft(inputs, n=n, dim=1) * rfft(kernel.mT, n=n, dim=0)
    return irfft(spectrum, n=n, dim=1)[:, past : past + T], inputs[:, T:].clone()
