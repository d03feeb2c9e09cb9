"""`delta_scan` and its rules by the chunk kernels of flash-linear-attention. README.md, "On GPUs", says which."""

import torch
from torch import Tensor

from matrixstate.ops import _fla
from matrixstate.ops._chunks import bounded

__all__ = ["delta_scan", "gated_delta_product", "unsupported"]


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """Why the kernels cannot run such inputs; None if they can."""
    if "K > 256" in details:
        return "needs keys of width 256 at most"
    if "micro-steps with a read" in details:
        return "has micro-steps for the delta rules alone, not for a read of any kind"
    if "micro-steps with a decay per channel" in details:
        return "has no decay per channel with micro-steps"
    return _fla.unsupported(device, dtype, *details)


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
    """As the reference. `chunk` is unused: the kernels choose it."""
    return _fla.run("delta_scan", as_call(q, k, v, read, write, log_decay), state, reset)


def as_call(q: Tensor, k: Tensor, v: Tensor, read: Tensor, write: Tensor | None, log_decay: Tensor | None) -> _fla.Call:
    """The library's function for a step of one row, and its arguments."""
    decay = _fla.per_channel(None if log_decay is None else bounded(log_decay.to(torch.float32)), k)
    write = -k if write is None else write
    return _fla.Call(
        "generalized_delta_rule.chunk_dplr_delta_rule",
        {"q": q, "k": k, "v": v, "a": read, "b": write, "gk": decay},
    )


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
    """As the reference. `chunk` is unused: the kernels choose it."""
    return _fla.run("delta_scan", rule_as_call(q, k, v, beta, log_decay, micro_steps), state, reset)


def rule_as_call(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None, micro_steps: int
) -> _fla.Call:
    """The library's function for a delta rule, and its arguments."""
    rule = {"q": q, "k": k, "v": v, "beta": beta.to(torch.float32)}
    decay = None if log_decay is None else bounded(log_decay.to(torch.float32))
    if micro_steps > 1:
        name = "gated_delta_product.chunk_gated_delta_product"
        return _fla.Call(name, rule | {"g": decay}, {"num_householder": micro_steps})
    if decay is None:
        return _fla.Call("delta_rule.chunk_delta_rule", rule)
    if decay.ndim == 3:
        return _fla.Call("gated_delta_rule.chunk_gated_delta_rule", rule | {"g": decay})
    return _fla.Call("kda.chunk_kda", rule | {"g": decay})
