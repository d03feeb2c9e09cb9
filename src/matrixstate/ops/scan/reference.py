"""The definition of the linear recurrence: plain PyTorch, one step after another. Its gradient is autograd's.

Asked for another method by name, it runs that of `scan.py`.
"""

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._plain import unsupported
from matrixstate.ops.scan.scan import convolution, scan

__all__ = ["linear_scan", "unsupported"]


@widened
def linear_scan(
    x: Tensor, decay: Tensor, is_log: bool, state: Tensor, reset: Tensor | None, method: str
) -> tuple[Tensor, Tensor]:
    """x [B,T,...], decay or its logarithm [B,T,...] or [...] with size 1 where it is shared, state [B,...], reset [B,T]
    or None -> h [B,T,...] in the dtype of x, state. `method` as in the op.
    """
    a = decay.exp() if is_log else decay
    if method not in ("auto", "sequential"):
        h = convolution(x, a, state) if method == "fft" else scan(x, a, state, reset, method)
        return h, h[:, -1].clone()  # a view would keep all of h alive
    h, out = state, []
    decays = a.unbind(dim=1) if a.ndim == x.ndim else (a,) * x.shape[1]
    for t, (a_t, x_t) in enumerate(zip(decays, x.unbind(dim=1), strict=True)):
        if reset is not None:
            h = h.masked_fill(reset[:, t].view(-1, *[1] * (h.ndim - 1)), 0)
        h = a_t * h + x_t
        out.append(h)
    return torch.stack(out, dim=1), h
