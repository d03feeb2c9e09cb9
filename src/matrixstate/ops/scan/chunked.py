"""The linear recurrence in plain PyTorch with all chunks of the sequence at once: `by_chunks` in `scan.py`.

A number that is not finite spreads to later documents too, since what comes before a reset is multiplied by zero.
"""

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._dynamic import is_dynamic, over_chunks
from matrixstate.ops.scan.scan import by_chunks, cut, scan

__all__ = ["linear_scan", "unsupported"]

DYNAMIC_CHUNK = 16  # steps of a chunk where the length is dynamic


def unsupported(device: str, dtype: torch.dtype, method: str = "auto") -> str | None:
    """Any device and dtype, by this method alone."""
    return None if method in ("auto", "chunked") else f"computes by chunks, which is not method {method!r}"


@widened
def linear_scan(
    x: Tensor, decay: Tensor, is_log: bool, state: Tensor, reset: Tensor | None, method: str
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    a = decay.exp() if is_log else decay
    if is_dynamic(x.shape[1]):
        return _dynamic(x, a, state, reset)
    h = scan(x, a, state, reset, "chunked")
    return h, h[:, -1].clone()  # a view would keep all of h alive


def _dynamic(x: Tensor, a: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """One chunk after another. The padding of the last, zeros in every input, gets decays of 1: it keeps the state."""
    constant = None if a.ndim == x.ndim else a.expand(x.shape[0], DYNAMIC_CHUNK, *a.shape)

    def run(x: Tensor, a: Tensor | None, real: Tensor, reset: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
        every = constant if a is None else a
        assert every is not None
        decays = torch.where(real.view(*real.shape, *[1] * (x.ndim - 2)), every, 1)
        h = by_chunks(x, cut(decays, reset, x), state)
        return h, h[:, -1].clone()

    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    return over_chunks(run, (x, a if constant is None else None, real, reset), state, DYNAMIC_CHUNK)
