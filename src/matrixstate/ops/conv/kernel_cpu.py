"""The kernel of the causal convolution (csrc/conv/) as PyTorch operators, and that of a gated one for one token."""

from typing import Any

import torch
from torch import Tensor

from matrixstate import _native
from matrixstate.ops._cpu import unsupported
from matrixstate.ops._operators import (
    call_checked,
    dense,
    differentiable,
    differentiable_once,
    floats,
    fresh,
    operator,
    plain,
)

__all__ = ["causal_conv", "gated_conv_step", "unsupported"]


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, reset: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    weight, bias = weight.to(torch.float32), None if bias is None else bias.to(torch.float32)
    return torch.ops.matrixstate.causal_conv_cpu(x, weight, bias, state, reset, activation == "silu")


def gated_conv_step(
    x: Tensor, gate: Tensor, weight: Tensor, norm: Tensor, past: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As the reference. Called directly: PyTorch's dispatcher costs more than the step."""
    y, last = torch.empty(x.shape, dtype=norm.dtype), torch.empty(past.shape)
    inputs = *plain(x, gate), *floats(weight, norm), eps, *plain(past)
    call_checked(_native.gated_conv_step, *inputs, y, last)
    return y, last


@operator("causal_conv_cpu")
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, reset: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """y and the last state."""
    y, last = fresh(x), fresh(state)
    _native.conv_forward(*dense(x, weight, bias, state, reset), silu, y, last, torch.get_num_threads())
    return y, last


@operator("causal_conv_cpu_backward")
def _backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    silu: bool,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias (empty where there is none) and the first state."""
    dx, dweight, dstate = fresh(x), fresh(weight), fresh(state)
    dbias = fresh(weight, 0 if bias is None else len(bias))
    inputs, incoming = dense(x, weight, bias, state, reset), dense(dy, dlast)
    gradients = dx, dweight, None if bias is None else dbias, dstate
    _native.conv_backward(*inputs, silu, *incoming, *gradients, torch.get_num_threads())
    return dx, dweight, dbias, dstate


@torch.library.register_fake("matrixstate::causal_conv_cpu")
def _(x, weight, bias, state, reset, silu):
    return fresh(x), fresh(state)


@torch.library.register_fake("matrixstate::causal_conv_cpu_backward")
def _(x, weight, bias, state, reset, silu, dy, dlast):
    return fresh(x), fresh(weight), fresh(weight, 0 if bias is None else len(bias)), fresh(state)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, dlast: Tensor | None) -> tuple:
    x, _, bias, state, _ = saved = ctx.saved_tensors
    dy = torch.zeros_like(x) if dy is None else dy
    dlast = torch.zeros_like(state) if dlast is None else dlast
    dx, dweight, dbias, dstate = torch.ops.matrixstate.causal_conv_cpu_backward(*saved, ctx.silu, dy, dlast)
    return dx, dweight, None if bias is None else dbias, dstate, None, None


differentiable("causal_conv_cpu", _differentiate, _save_for_backward)
differentiable_once("causal_conv_cpu_backward", "causal_conv")
