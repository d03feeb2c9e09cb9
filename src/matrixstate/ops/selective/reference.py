"""The definition of the selective recurrence: plain PyTorch, one step after another. Its gradient is autograd's."""

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._plain import unsupported

__all__ = ["selective_scan", "unsupported"]


@widened
def selective_scan(
    x: Tensor,
    step: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    skip: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """x, step [n,T,D], A [D,N], B, C [n,T,G,N], skip [D], state [n,D,N], reset [n,T] -> y [n,T,D] in the dtype of x,
    state. None as in the op.
    """
    h, out, each = state, [], x.shape[2] // B.shape[2]
    for t, (x_t, step_t, B_t, C_t) in enumerate(zip(*(a.unbind(dim=1) for a in (x, step, B, C)), strict=True)):
        if reset is not None:
            h = h.masked_fill(reset[:, t, None, None], 0)
        B_t, C_t = (a.repeat_interleave(each, dim=1) for a in (B_t, C_t))
        h = torch.exp(step_t[..., None] * A) * h + (step_t * x_t)[..., None] * B_t
        out.append((h * C_t).sum(-1))
    y = torch.stack(out, dim=1)
    return y if skip is None else y + skip * x, h
