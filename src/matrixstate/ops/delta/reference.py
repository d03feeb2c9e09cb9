"""The definition of the diagonal-plus-rank-one recurrence: plain PyTorch, one step after another."""

import torch
from torch import Tensor


def unsupported(device: str, dtype: torch.dtype) -> str | None:
    return None


def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    read: Tensor,
    write: Tensor,
    log_decay: Tensor | None,
    micro_steps: int,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """q [B,T,H,K]; k, read, write [B,T·m,H,K], v [B,T·m,H,V]; log_decay [B,T,H,1 or K] -> y [B,T,H,V], state."""
    S, out = state, []
    decays = (None,) * q.shape[1] if log_decay is None else log_decay.unbind(dim=1)
    rows = list(zip(*(x.unbind(dim=1) for x in (k, v, read, write)), strict=True))
    for t, (q_t, g_t) in enumerate(zip(q.unbind(dim=1), decays, strict=True)):
        if reset is not None:
            S = S.masked_fill(reset[:, t, None, None, None], 0)
        for micro, (k_t, v_t, r_t, w_t) in enumerate(rows[t * micro_steps : (t + 1) * micro_steps]):
            seen = r_t[..., None, :] @ S
            if micro == 0 and g_t is not None:
                S = S * g_t.exp()[..., :, None]
            S = S + w_t[..., :, None] * seen + k_t[..., :, None] * v_t[..., None, :]
        out.append((q_t[..., None, :] @ S).squeeze(-2))
    return torch.stack(out, dim=1), S
