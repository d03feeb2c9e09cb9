"""The definition of `snap_scan`: plain PyTorch, one step after another. Its gradient is autograd's."""

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._plain import unsupported

__all__ = ["snap_scan", "unsupported"]


def unit(m: Tensor) -> Tensor:
    """m [..., D, D] scaled to the Frobenius norm of the identity, sqrt(D); a zero matrix stays zero."""
    size = torch.linalg.matrix_norm(m).clamp_min(torch.finfo(m.dtype).tiny) / m.shape[-1] ** 0.5
    return m / size[..., None, None]


def retrieve(m: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """unit(softmax(<m, keys>) values) for m [B, H, D, D]; keys and values [G, M, H/G, D, D]."""
    groups = m.unflatten(1, (len(keys), -1))
    weights = torch.einsum("bghij,gmhij->bgm", groups, keys).softmax(dim=-1)
    return unit(torch.einsum("bgm,gmhij->bghij", weights, values).flatten(1, 2))


@widened
def snap_scan(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    matrix: Tensor,
    phase: Tensor,
    every: int,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """x [B,T,H,D,D], keys and values [G,M,H/G,D,D], matrix [B,H,D,D], phase [B], mask and reset [B,T] or None
    -> h [B,T,H,D,D] in the dtype of x, the last matrix, the last phase.
    """
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    h, out = matrix, []
    for t in range(x.shape[1]):
        if reset is not None:
            h = torch.where(reset[:, t, None, None, None], identity, h)
            phase = phase.masked_fill(reset[:, t], 0)
        following, counted = unit(h @ x[:, t]), phase + 1
        due = counted == every
        following = torch.where(due[:, None, None, None], retrieve(following, keys, values), following)
        counted = counted.masked_fill(due, 0)
        if mask is not None:
            following = torch.where(mask[:, t, None, None, None], following, h)
            counted = torch.where(mask[:, t], counted, phase)
        h, phase = following, counted
        out.append(h)
    return torch.stack(out, dim=1), h, phase
