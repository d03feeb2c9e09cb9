"""The kernel of the quotient (csrc/quotient/) as PyTorch operators.

They take the axes of the op. The values of a step are G groups of R, each group with one score.
"""

import math
from typing import Any

import torch
from torch import Tensor

from matrixstate import _native
from matrixstate.ops._cpu import unsupported
from matrixstate.ops._operators import dense, differentiable, differentiable_once, fresh, needs_gradient, operator
from matrixstate.ops.scan.sharing import is_grouped

__all__ = ["normalised_scan", "unsupported"]


def normalised_scan(
    score: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    bonus: Tensor | None,
    max: Tensor,
    den: Tensor,
    num: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the reference. A score is read where it is if it is shared along the last axes alone, else copied."""
    shape = den.shape
    if not is_grouped(score.shape[2:], v.shape[2:]):
        score, max, den = score.expand_as(v), max.expand_as(num), den.expand_as(num)
    own = score.shape[2:]
    if log_decay is not None:
        leading = log_decay.shape[: log_decay.ndim - len(own)]
        log_decay = log_decay.to(torch.float32).expand(*leading, *own)
    bonus = None if bonus is None else bonus.to(torch.float32).expand(own)
    save = needs_gradient(score, v, log_decay, bonus, den, num)
    run = torch.ops.matrixstate.normalised_scan_cpu
    y, max, den, num, _ = run(score, v, log_decay, bonus, max, den, num, reset, save)
    if den.shape != shape:
        shared = tuple(slice(size) for size in shape)
        max, den = max[shared], den[shared]
    return y, max.detach(), den, num


def _groups(score: Tensor, v: Tensor) -> tuple[int, int]:
    """G, R."""
    G = math.prod(score.shape[2:])
    return G, math.prod(v.shape[2:]) // G if G else 0


def _outputs(score: Tensor, v: Tensor, max: Tensor, den: Tensor, num: Tensor, save: bool) -> tuple[Tensor, ...]:
    G, R = _groups(score, v)
    intervals = -(-v.shape[1] // _native.QUOTIENT_INTERVAL) if save else 0
    return fresh(v), fresh(max), fresh(den), fresh(num), fresh(num, v.shape[0], intervals, G * (R + 2))


def _dense(score, v, log_decay, bonus, max, den, num, reset) -> tuple[Any, ...]:
    """What both directions take first."""
    is_constant = log_decay is not None and log_decay.ndim != score.ndim
    score, v, log_decay, *more = dense(score, v, log_decay, bonus, max, den, num, reset)
    return score, v, log_decay, is_constant, *more


@operator("normalised_scan_cpu")
def _forward(
    score: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    bonus: Tensor | None,
    max: Tensor,
    den: Tensor,
    num: Tensor,
    reset: Tensor | None,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, the last max, den and num, and if `save`, for the backward pass, all three every few steps (else empty)."""
    *outputs, saved = _outputs(score, v, max, den, num, save)
    inputs = *_dense(score, v, log_decay, bonus, max, den, num, reset), *_groups(score, v)
    _native.quotient_forward(*inputs, *outputs, saved if save else None, torch.get_num_threads())
    return (*outputs, saved)  # type: ignore[return-value]


@operator("normalised_scan_cpu_backward")
def _backward(
    score: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    bonus: Tensor | None,
    max: Tensor,
    den: Tensor,
    num: Tensor,
    reset: Tensor | None,
    saved: Tensor,
    dy: Tensor,
    dden: Tensor,
    dnum: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of score, v, log_decay and bonus (empty where there is none), den and num."""
    gradients = _gradients(score, v, log_decay, bonus, den, num)
    dscore, dv, ddecay, dbonus, *dstate = gradients
    inputs = *_dense(score, v, log_decay, bonus, max, den, num, reset), *_groups(score, v)
    optional = None if log_decay is None else ddecay, None if bonus is None else dbonus
    incoming = dense(saved, dy, dden, dnum)
    _native.quotient_backward(*inputs, *incoming, dscore, dv, *optional, *dstate, torch.get_num_threads())
    return gradients


def _gradients(score, v, log_decay, bonus, den, num) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    optional = (fresh(den, 0) if x is None else fresh(x) for x in (log_decay, bonus))
    return fresh(score), fresh(v), *optional, fresh(den), fresh(num)  # type: ignore[return-value]


@torch.library.register_fake("matrixstate::normalised_scan_cpu")
def _(score, v, log_decay, bonus, max, den, num, reset, save):
    return _outputs(score, v, max, den, num, save)


@torch.library.register_fake("matrixstate::normalised_scan_cpu_backward")
def _(score, v, log_decay, bonus, max, den, num, reset, saved, dy, dden, dnum):
    return _gradients(score, v, log_decay, bonus, den, num)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:-1], output[-1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, dmax: None, dden: Tensor | None, dnum: Tensor | None, _: None) -> tuple:
    *inputs, saved = ctx.saved_tensors
    _, v, log_decay, bonus, _, den, num, _ = inputs
    incoming = (torch.zeros_like(x) if g is None else g for g, x in ((dy, v), (dden, den), (dnum, num)))
    run = torch.ops.matrixstate.normalised_scan_cpu_backward
    dscore, dv, ddecay, dbonus, dden, dnum = run(*inputs, saved, *incoming)
    optional = None if log_decay is None else ddecay, None if bonus is None else dbonus
    return dscore, dv, *optional, None, dden, dnum, None, None


differentiable("normalised_scan_cpu", _differentiate, _save_for_backward)
differentiable_once("normalised_scan_cpu_backward", "normalised_scan")
