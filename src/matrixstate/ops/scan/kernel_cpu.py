"""The kernel of the linear recurrence (csrc/scan/) as PyTorch operators.

They take the axes of the op, complex numbers as a last axis of two. Where the decay is complex too, such a pair is one
element (`pairs`); else it is two numbers that share a decay.
"""

import math
from typing import Any

import torch
from torch import Tensor

from matrixstate import _native
from matrixstate.ops import _cpu
from matrixstate.ops._operators import dense, differentiable, differentiable_once, fresh, needs_gradient, operator
from matrixstate.ops.scan.sharing import is_grouped

__all__ = ["linear_scan", "unsupported"]


def unsupported(device: str, dtype: torch.dtype, method: str = "auto") -> str | None:
    if method not in ("auto", "sequential"):
        return f"computes one step after another, which is not method {method!r}"
    if device == "cpu" and dtype == torch.complex64:
        return None
    reason = _cpu.unsupported(device, dtype)
    return reason if reason is None else f"{reason} (of complex dtypes, torch.complex64)"


def linear_scan(
    x: Tensor, decay: Tensor, is_log: bool, state: Tensor, reset: Tensor | None, method: str
) -> tuple[Tensor, Tensor]:
    """As the reference. A decay is read where it is if it is shared along the last axes alone, else copied."""
    is_complex, pairs = x.is_complex(), decay.is_complex()
    if is_complex:
        x, state = torch.view_as_real(x.resolve_conj()), torch.view_as_real(state.resolve_conj())
        decay = torch.view_as_real(decay.to(torch.complex64).resolve_conj()) if pairs else decay[..., None]
    decay = decay.to(torch.float32)
    leading = 2 if decay.ndim == x.ndim else 0
    if not is_grouped(decay.shape[leading : decay.ndim - pairs], x.shape[2 : x.ndim - pairs]):
        decay = decay.expand(decay.shape[:leading] + x.shape[2:])
    save = needs_gradient(x, decay, state)
    h, last, _ = torch.ops.matrixstate.linear_scan_cpu(x, decay, is_log, pairs, state, reset, save)
    return (torch.view_as_complex(h), torch.view_as_complex(last)) if is_complex else (h, last)


def _groups(x: Tensor, decay: Tensor, pairs: bool) -> tuple[int, int, int]:
    """G, R, Z: the numbers of a step of x are G groups of R elements that share a decay, of Z numbers each."""
    Z = 2 if pairs else 1
    G = math.prod(decay.shape[2 if decay.ndim == x.ndim else 0 :]) // Z
    return G, math.prod(x.shape[2:]) // max(G * Z, 1), Z


def _outputs(x: Tensor, state: Tensor, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    intervals = -(-x.shape[1] // _native.SCAN_INTERVAL) if save and x.dtype != torch.float32 else 0
    return fresh(x), fresh(state), fresh(state, state.shape[0], intervals, *state.shape[1:])


@operator("linear_scan_cpu")
def _forward(
    x: Tensor, decay: Tensor, is_log: bool, pairs: bool, state: Tensor, reset: Tensor | None, save: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """h, the last state, and saved for the backward pass of a rounded h the states every few steps (else empty)."""
    h, last, saved = outputs = _outputs(x, state, save)
    a, is_constant = *dense(decay), decay.ndim != x.ndim
    inputs = *dense(x), *_groups(x, decay, pairs), a, is_constant, is_log, *dense(state, reset)
    _native.scan_forward(*inputs, h, last, saved if saved.shape[1] else None, torch.get_num_threads())
    return outputs


@operator("linear_scan_cpu_backward")
def _backward(
    known: Tensor,
    decay: Tensor,
    is_log: bool,
    pairs: bool,
    state: Tensor,
    reset: Tensor | None,
    saved: Tensor,
    dh: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, decay and the first state. `known` is h where that is float32, else x."""
    gradients = fresh(known), fresh(decay), fresh(state)
    a, is_constant = *dense(decay), decay.ndim != known.ndim
    inputs = *dense(known), *_groups(known, decay, pairs), a, is_constant, is_log, *dense(state, reset)
    saved_or_none, *incoming = dense(None if known.dtype == torch.float32 else saved, dh, dlast)
    _native.scan_backward(*inputs, saved_or_none, *incoming, *gradients, torch.get_num_threads())
    return gradients


@torch.library.register_fake("matrixstate::linear_scan_cpu")
def _(x, decay, is_log, pairs, state, reset, save):
    return _outputs(x, state, save)


@torch.library.register_fake("matrixstate::linear_scan_cpu_backward")
def _(known, decay, is_log, pairs, state, reset, saved, dh, dlast):
    return fresh(known), fresh(decay), fresh(state)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, decay, ctx.is_log, ctx.pairs, state, reset, _ = inputs
    h, _, saved = output
    ctx.save_for_backward(h if h.dtype == torch.float32 else x, decay, state, reset, saved)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dh: Tensor | None, dlast: Tensor | None, _: None) -> tuple:
    known, decay, state, reset, saved = ctx.saved_tensors
    dh = torch.zeros_like(known) if dh is None else dh
    dlast = torch.zeros_like(state) if dlast is None else dlast
    run = torch.ops.matrixstate.linear_scan_cpu_backward
    dx, ddecay, dstate = run(known, decay, ctx.is_log, ctx.pairs, state, reset, saved, dh, dlast)
    return dx, ddecay, None, None, dstate, None, None


differentiable("linear_scan_cpu", _differentiate, _save_for_backward)
differentiable_once("linear_scan_cpu_backward", "linear_scan")
