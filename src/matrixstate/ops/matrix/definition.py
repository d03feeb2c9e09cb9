"""The definitions of the matrix scans: plain PyTorch, one step after another. Their gradients are autograd's.

The backend "reference" (`reference.py`) computes the same with a backward pass that saves less, and by any schedule.
"""

import math

import torch
from torch import Tensor


def matrix_scan(x: Tensor, v: Tensor | None, state: Tensor, reset: Tensor | None, start: Tensor) -> Tensor:
    """x [B,T,H,D,D], v [B,T,H,R,D] or None, state and start [B,H,R,D], reset [B,T] or None -> h [B,T,H,R,D].

    `start` is the state that a reset puts in place of the one carried so far.
    """
    h, out = state, []
    added = [None] * x.shape[1] if v is None else v.unbind(dim=1)
    for t, (x_t, v_t) in enumerate(zip(x.unbind(dim=1), added, strict=True)):
        if reset is not None:
            h = torch.where(reset[:, t, None, None, None], start, h)
        h = h @ x_t
        if v_t is not None:
            h = h + v_t
        out.append(h)
    return torch.stack(out, dim=1)


def scaled_matrix_scan(x: Tensor, state: Tensor, log_scale: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """x [B,T,H,D,D], state [B,H,R,D], log_scale [B,H] -> h [B,T,H,R,D] of norm sqrt(D), log_scale [B,T,H]."""
    start = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device).expand_as(state) if reset is not None else state
    root, out = math.sqrt(x.shape[-1]), []
    for t, x_t in enumerate(x.unbind(dim=1)):
        if reset is not None:
            state = torch.where(reset[:, t, None, None, None], start, state)
            log_scale = torch.where(reset[:, t, None], torch.zeros_like(log_scale), log_scale)
        state = state @ x_t
        norm = torch.linalg.matrix_norm(state)
        state, log_scale = state * (root / norm)[..., None, None], log_scale + (norm / root).log()
        out.append((state, log_scale))
    h, scales = zip(*out, strict=True)
    return torch.stack(h, dim=1), torch.stack(scales, dim=1)
