"""The definition of the outer-product recurrence: plain PyTorch, one step after another. Its gradient is autograd's."""

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._plain import unsupported

__all__ = ["outer_scan", "unsupported"]


@widened
def outer_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    log_decay_v: Tensor | None,
    log_input: Tensor | None,
    bonus: Tensor | None,
    read: str,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """q, k [B,T,H,K], v, log_decay_v [B,T,H,V], log_decay [B,T,H] or [B,T,H,K], log_input [B,T,H], bonus [H,K],
    state [B,H,K,V], reset [B,T] -> y [B,T,H,V] in the dtype of q, state. `read` and None as in the op; `chunk` is for
    the backends that compute by chunks.
    """
    S, out = state, []
    if log_decay is not None and log_decay.ndim == 3:
        log_decay = log_decay[..., None]
    optional = (_steps(x, q) for x in (log_decay, log_decay_v, log_input))
    steps = zip(*(x.unbind(dim=1) for x in (q, k, v)), *optional, strict=True)
    for t, (q_t, k_t, v_t, g_t, g_v, i_t) in enumerate(steps):
        if reset is not None:
            S = S.masked_fill(reset[:, t, None, None, None], 0)
        written, before = k_t[..., :, None] * v_t[..., None, :], S
        S = S if g_t is None else S * g_t.exp()[..., :, None]
        S = S if g_v is None else S * g_v.exp()[..., None, :]
        S = S + (written if i_t is None else written * i_t.exp()[..., None, None])
        seen = S
        if read == "pre":
            seen = before if bonus is None else before + bonus[:, :, None] * written
        out.append((q_t[..., None, :] @ seen).squeeze(-2))
    return torch.stack(out, dim=1), S


def _steps(x: Tensor | None, q: Tensor) -> tuple[Tensor | None, ...]:
    """x at every step; as many None where there is no x."""
    return (None,) * q.shape[1] if x is None else x.unbind(dim=1)
