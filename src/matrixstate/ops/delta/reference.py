"""The definition of the diagonal-plus-rank-one recurrence: plain PyTorch, one step after another."""

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._plain import unsupported
from matrixstate.ops.delta.rules import as_key_and_read

__all__ = ["delta_scan", "gated_delta_product", "unsupported"]


def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    read: Tensor,
    write: Tensor | None,
    log_decay: Tensor | None,
    micro_steps: int,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """q [B,T,H,K]; k, read, write [B,T·m,H,K], v [B,T·m,H,V]; log_decay [B,T,H] or [B,T,H,K], state [B,H,K,V],
    reset [B,T] -> y [B,T,H,V] in the dtype of q, state. None as in the op; `chunk` is for the backends that compute by
    chunks.
    """
    return _scan(q, k, v, read, -k if write is None else write, log_decay, micro_steps, state, reset)


@widened
def _scan(q, k, v, read, write, log_decay, micro_steps, state, reset) -> tuple[Tensor, Tensor]:
    S, out = state, []
    if log_decay is not None and log_decay.ndim == 3:
        log_decay = log_decay[..., None]
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


@widened
def gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    micro_steps: int,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """As `delta_scan`, with beta [B,T·m,H] in place of read and write."""
    k, read = as_key_and_read(k, beta, log_decay, micro_steps)
    return delta_scan(q, k, v, read, None, log_decay, micro_steps, state, reset, chunk)
