"""The backend of the matrix scans in plain PyTorch: `definition.py`, by any schedule."""

from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._plain import unsupported
from matrixstate.ops.matrix.scan import log_scales, normalised, scaled_scan, scan

__all__ = ["matrix_scan", "scaled_matrix_scan", "unsupported"]


@widened
def matrix_scan(x: Tensor, v: Tensor | None, state: Tensor, reset: Tensor | None, method: str) -> tuple[Tensor, Tensor]:
    """x [B,T,H,D,D], v [B,T,H,R,D] or None, state [B,H,R,D], reset [B,T] or None -> h [B,T,H,R,D] in the dtype of x,
    state. `method` is "auto" or one of `SCHEDULES`.
    """
    h = scan(x, v, state, reset, _schedule(method, x))
    return h, h[:, -1].clone()  # a view would keep all of h alive


@widened
def scaled_matrix_scan(
    x: Tensor, matrix: Tensor, exponent: Tensor, reset: Tensor | None, method: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [B,T,H,D,D], matrix [B,H,R,D], exponent [B,H] -> h [B,T,H,R,D] in the dtype of x, log_scale [B,T,H], and the
    last matrix and exponent.
    """
    m, e = scaled_scan(x, matrix, exponent, reset, _schedule(method, x))
    last = m[:, -1].clone()
    h, size = normalised(m)
    return h, log_scales(size, e), last, e[:, -1].clone()


def _schedule(method: str, x: Tensor) -> str:
    """What "auto" stands for: the least work on a CPU and for few steps, a short chain of products elsewhere."""
    if method != "auto":
        return method
    return "sequential" if x.device.type == "cpu" or x.shape[1] <= 16 else "brent_kung"
