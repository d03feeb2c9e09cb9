"""The Triton kernels of the linear recurrence (triton_programs.py) as PyTorch operators."""

import math
from typing import Any

import torch
from torch import Tensor

from matrixstate.ops import _triton
from matrixstate.ops._operators import dense, differentiable, differentiable_once, fresh, needs_gradient, operator
from matrixstate.ops.scan import triton_programs
from matrixstate.ops.scan.sharing import is_grouped

__all__ = ["linear_scan", "unsupported"]

STEPS = 8  # that a program unrolls, and from one saved state to the next
ELEMENTS, WARPS = 128, 2  # of a program: two elements a thread
REGISTERS = 128  # per thread of the backward program, which the assembler would limit and spill


def unsupported(device: str, dtype: torch.dtype, method: str = "auto") -> str | None:
    """Why the kernel cannot run such inputs; None if it can."""
    if method not in ("auto", "sequential"):
        return f"computes one step after another, which is not method {method!r}"
    return _triton.unsupported(device, dtype)


def linear_scan(
    x: Tensor, decay: Tensor, is_log: bool, state: Tensor, reset: Tensor | None, method: str
) -> tuple[Tensor, Tensor]:
    """As the reference. A decay is read where it is if it is shared along the last axes alone, else copied."""
    decay = decay.to(torch.float32)
    leading = 2 if decay.ndim == x.ndim else 0
    if not is_grouped(decay.shape[leading:], x.shape[2:]):
        decay = decay.expand(decay.shape[:leading] + x.shape[2:])
    save = needs_gradient(x, decay, state)
    h, last, _ = torch.ops.matrixstate.linear_scan_triton(x, decay, is_log, state, reset, save)
    return h, last


def _sizes(x: Tensor, decay: Tensor, is_log: bool) -> dict[str, Any]:
    """The constants and the number of warps of both programs."""
    N, constant = math.prod(x.shape[2:]), decay.ndim != x.ndim
    G = math.prod(decay.shape[0 if constant else 2 :])
    return {
        "N": N, "G": G, "ELEMENTS": ELEMENTS, "STEPS": STEPS, "CONSTANT": constant, "IS_LOG": is_log, "warps": WARPS
    }  # fmt: skip


def _grid(x: Tensor) -> tuple[int, int]:
    return x.shape[0], -(-math.prod(x.shape[2:]) // ELEMENTS)


def _saved(x: Tensor, state: Tensor, save: bool) -> Tensor:
    """Room for the states that the backward pass begins from."""
    return fresh(state, x.shape[0], -(-x.shape[1] // STEPS) if save else 0, *state.shape[1:])


@operator("linear_scan_triton", "CUDA", "CPU")
def _forward(
    x: Tensor, decay: Tensor, is_log: bool, state: Tensor, reset: Tensor | None, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """h, the last state, and saved for the backward pass the states before every STEPS-th step, if `save`."""
    h, last, saved = outputs = fresh(x), fresh(state), _saved(x, state, save)
    arguments = *dense(x, decay), _triton.flags(reset, x), *dense(state), h, last, saved, x.shape[1]
    if x.numel():
        _triton.launch(triton_programs.forward, _grid(x), arguments, SAVE=save, **_sizes(x, decay, is_log))
    return outputs


@operator("linear_scan_triton_backward", "CUDA", "CPU")
def _backward(
    x: Tensor, decay: Tensor, is_log: bool, reset: Tensor | None, saved: Tensor, dh: Tensor, dlast: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, decay and the first state."""
    sizes = _sizes(x, decay, is_log)
    dx, dfirst = fresh(x), fresh(dlast)
    da = fresh(decay, x.shape[0], *(() if sizes["CONSTANT"] else x.shape[1:2]), *x.shape[2:])
    arguments = *dense(x, decay), _triton.flags(reset, x), *dense(saved, dh, dlast), dx, da, dfirst, x.shape[1]
    if x.numel():
        _triton.launch(triton_programs.backward, _grid(x), arguments, registers=REGISTERS, **sizes)
    da = da.sum(dim=0) if sizes["CONSTANT"] else da
    return dx, da.sum_to_size(decay.shape).contiguous(), dfirst


@torch.library.register_fake("matrixstate::linear_scan_triton")
def _(x, decay, is_log, state, reset, save):
    return fresh(x), fresh(state), _saved(x, state, save)


@torch.library.register_fake("matrixstate::linear_scan_triton_backward")
def _(x, decay, is_log, reset, saved, dh, dlast):
    return fresh(x), fresh(decay), fresh(dlast)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, decay, ctx.is_log, _, reset, _ = inputs
    _, last, saved = output
    ctx.save_for_backward(x, decay, reset, saved)
    ctx.set_materialize_grads(False)
    ctx.like = last.shape, last.dtype


def _differentiate(ctx: Any, dh: Tensor | None, dlast: Tensor | None, _: None) -> tuple:
    (x, decay, reset, saved), (shape, dtype) = ctx.saved_tensors, ctx.like
    dh = torch.zeros_like(x) if dh is None else dh
    dlast = x.new_zeros(shape, dtype=dtype) if dlast is None else dlast
    run = torch.ops.matrixstate.linear_scan_triton_backward
    dx, ddecay, dstate = run(x, decay, ctx.is_log, reset, saved, dh, dlast)
    return dx, ddecay, None, dstate, None, None


differentiable("linear_scan_triton", _differentiate, _save_for_backward)
differentiable_once("linear_scan_triton_backward", "linear_scan")
