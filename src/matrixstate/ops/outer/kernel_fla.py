"""`outer_scan` by the chunk kernels of flash-linear-attention. README.md, "On GPUs", says what they round."""

import torch
from torch import Tensor

from matrixstate.ops import _fla
from matrixstate.ops._chunks import bounded

__all__ = ["outer_scan", "unsupported"]


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """Why the kernels cannot run such inputs; None if they can."""
    if "decay of columns" in details:
        return "has no decay of columns (log_decay_v)"
    if "bonus with log_input" in details:
        return "weights the bonus with log_input too"
    return _fla.unsupported(device, dtype, *details)


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
    """As the reference. `chunk` is unused: the kernels choose it."""
    return _fla.run("outer_scan", as_call(q, k, v, log_decay, log_input, bonus, read), state, reset)


def as_call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    log_input: Tensor | None,
    bonus: Tensor | None,
    read: str,
) -> _fla.Call:
    """The library's function for these inputs, and its arguments."""
    if log_input is not None:
        k = (k * log_input.to(torch.float32).exp()[..., None]).to(k.dtype)
    decay = None if log_decay is None else bounded(log_decay.to(torch.float32))
    if read == "pre":
        H, K = k.shape[2:]
        u = k.new_zeros(H, K) if bonus is None else bonus
        return _fla.Call(
            "rwkv6.chunk_rwkv6",
            {"r": q, "k": k, "v": v, "w": _fla.per_channel(decay, k)},
            {"u": u.to(torch.float32)},
        )
    if decay is None or decay.ndim == 3:
        return _fla.Call("simple_gla.chunk_simple_gla", {"q": q, "k": k, "v": v, "g": decay})
    return _fla.Call("gla.chunk_gla", {"q": q, "k": k, "v": v, "g": decay})
