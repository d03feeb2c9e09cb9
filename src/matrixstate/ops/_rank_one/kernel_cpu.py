"""The kernel of the diagonal-plus-rank-one recurrence (csrc/rank_one/) as PyTorch operators, for the ops it serves."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from matrixstate import _native
from matrixstate.ops._operators import dense, differentiable, differentiable_once, fresh, needs_gradient, operator

Absent = Tensor | None
DIFFERENTIABLE = 10  # so many arguments of the operator come before `reset`; they and the state have gradients


def _reads(read: Any, beta: Any) -> bool:
    """Whether a row reads the state that it updates: by `read`, or by its key under a delta rule."""
    return read is not None or beta is not None


def _outputs(q: Tensor, k: Tensor, v: Tensor, reads: bool, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Uninitialised: y, the last state, and for the backward pass the states before intervals and what rows read."""
    (B, T, H, K), rows, V = q.shape, k.shape[1], v.shape[3]
    intervals = -(-rows // _native.RANK_ONE_INTERVAL) if save else 0
    narrow = {"dtype": torch.float32}
    return (
        fresh(q, B, T, H, V),
        fresh(q, B, H, K, V, **narrow),
        fresh(q, B, H, intervals, K, V, **narrow),
        fresh(q, B, rows if save and reads else 0, H, V, **narrow),
    )


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    read: Tensor | None,
    write: Tensor | None,
    beta: Tensor | None,
    log_decay: Tensor | None,
    log_decay_v: Tensor | None,
    log_input: Tensor | None,
    bonus: Tensor | None,
    reset: Tensor | None,
    read_before: bool,
    state: Tensor,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the last state, and saved for the backward pass: states every few rows and what each row read (else empty)."""
    reads = _reads(read, beta)
    y, last, saved, saved_reads = outputs = _outputs(q, k, v, reads, save)
    inputs = dense(q, k, v, read, write, beta, log_decay, log_decay_v, log_input, bonus, reset)
    for_backward = (saved if save else None, saved_reads if save and reads else None)
    _native.rank_one_forward(*inputs, read_before, *dense(state), y, last, *for_backward, torch.get_num_threads())
    return outputs


def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    read: Tensor | None,
    write: Tensor | None,
    beta: Tensor | None,
    log_decay: Tensor | None,
    log_decay_v: Tensor | None,
    log_input: Tensor | None,
    bonus: Tensor | None,
    reset: Tensor | None,
    read_before: bool,
    saved: Tensor,
    saved_reads: Tensor,
    dy: Tensor,
    dlast: Tensor,
) -> list[Tensor]:
    """The gradients of the tensors before `reset` (empty where one is None) and of the first state."""
    tensors = (q, k, v, read, write, beta, log_decay, log_decay_v, log_input, bonus)
    gradients = [None if x is None else fresh(x) for x in (*tensors, dlast)]
    inputs, starts = dense(*tensors, reset), (saved, saved_reads if _reads(read, beta) else None)
    incoming = dense(dy, dlast)
    _native.rank_one_backward(*inputs, read_before, *starts, *incoming, *gradients, torch.get_num_threads())
    return [fresh(q, 0) if gradient is None else gradient for gradient in gradients]


def _fake_forward(q, k, v, read, write, beta, *arguments):
    return _outputs(q, k, v, _reads(read, beta), save=arguments[-1])


def _fake_backward(q, k, v, *arguments):
    optional, dlast = arguments[: DIFFERENTIABLE - 3], arguments[-1]
    return [fresh(q, 0) if x is None else fresh(x) for x in (q, k, v, *optional, dlast)]


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    *tensors, reset, ctx.read_before, _, _ = inputs
    y, last, saved, saved_reads = output
    ctx.save_for_backward(*tensors, reset, saved, saved_reads)
    ctx.set_materialize_grads(False)
    ctx.like = y.shape, last.shape


def _flops(q, k, v, read=None, write=None, beta=None, *rest, **shapes) -> int:
    """The FLOPs of the sums over K and of the outer products, as PyTorch counts the reference's."""
    products = 2 if _reads(read, beta) else 1
    return 2 * q[0] * q[2] * q[3] * v[3] * (q[1] + products * k[1])


def _backward_flops(*inputs, **shapes) -> int:
    return 2 * _flops(*inputs)


def run(
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
    """Runs the operator that `register` made for `op`; names and shapes as in csrc/rank_one/rank_one.h."""
    weights = (beta, log_decay, log_decay_v, log_input, bonus)
    narrow = [None if x is None else x.to(torch.float32) for x in weights]
    tensors = (q, k, v, read, write, *narrow)
    operator = getattr(torch.ops.matrixstate, f"{op}_cpu")
    return operator(*tensors, reset, read_before, state, needs_gradient(*tensors, state))[:2]


def register(op: str) -> None:
    """Registers the recurrence as the operators of `op`, so that errors and profiles name it."""
    name = f"{op}_cpu"
    operator(name)(_forward)
    operator(f"{name}_backward")(_backward)
    torch.library.register_fake(f"matrixstate::{name}")(_fake_forward)
    torch.library.register_fake(f"matrixstate::{name}_backward")(_fake_backward)
    run_backward = getattr(torch.ops.matrixstate, f"{name}_backward")

    def differentiate(ctx: Any, dy: Absent, dlast: Absent, *saved: Absent) -> tuple:
        *tensors, dense_states, reads = ctx.saved_tensors
        q, y_shape, state_shape = tensors[0], *ctx.like
        dy = q.new_zeros(y_shape) if dy is None else dy
        dlast = q.new_zeros(state_shape, dtype=torch.float32) if dlast is None else dlast
        *gradients, dstate = run_backward(*tensors, ctx.read_before, dense_states, reads, dy, dlast)
        given = [None if x is None else g for x, g in zip(tensors[:DIFFERENTIABLE], gradients, strict=True)]
        return *given, None, None, dstate, None

    differentiable(name, differentiate, _save_for_backward)
    differentiable_once(f"{name}_backward", op)
    register_flop_formula(getattr(torch.ops.matrixstate, name))(_flops)
    register_flop_formula(run_backward)(_backward_flops)
