"""Calls the compiled diagonal-plus-rank-one recurrence for the ops that it serves."""

import torch
from torch import Tensor

Absent = Tensor | None


def scan(
    op: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    reset: Absent,
    *,
    read: Absent = None,
    write: Absent = None,
    beta: Absent = None,
    log_decay: Absent = None,
    log_decay_v: Absent = None,
    log_input: Absent = None,
    bonus: Absent = None,
    read_before: bool = False,
) -> tuple[Tensor, Tensor]:
    """Runs the operator of `op`, registered by its kernel_cpu; names and shapes as in csrc/rank_one/rank_one.h."""
    weights = (beta, log_decay, log_decay_v, log_input, bonus)
    narrow = [None if x is None else x.to(torch.float32) for x in weights]
    tensors = (q, k, v, read, write, *narrow)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (*tensors, state))
    run = getattr(torch.ops.matrixstate, f"{op}_cpu")
    return run(*tensors, reset, read_before, state, keep)[:2]
