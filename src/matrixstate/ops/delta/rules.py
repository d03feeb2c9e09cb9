"""The delta rules as inputs of `delta_scan`, for the backends that have no shorter way."""

import torch
from torch import Tensor


def as_key_and_read(k: Tensor, beta: Tensor, log_decay: Tensor | None, micro_steps: int) -> tuple[Tensor, Tensor]:
    """k [B,T·m,H,K], beta [B,T·m,H], log_decay [B,T,H] or [B,T,H,K] -> `k` and `read` of `delta_scan` without write.

    A rule erases from the decayed state, (I - b k kᵀ) diag(a): so its first micro-step reads with diag(a) k.
    """
    written = beta[..., None] * k
    if log_decay is None:
        return written, k
    decay = log_decay.exp() if log_decay.ndim == 4 else log_decay.exp()[..., None]
    read = k[:, ::micro_steps] * decay
    if micro_steps > 1:
        others = k.unflatten(1, (-1, micro_steps))[:, :, 1:]
        read = torch.cat([read[:, :, None], others], dim=2).flatten(1, 2)
    return written, read
