"""The kernel of the causal convolution (csrc/conv/) as PyTorch operators, and that of a gated one for one token."""

import torch
from torch import Tensor

from matrixstate import _native
from matrixstate.ops._cpu import unsupported
from matrixstate.ops._operators import (
    call_checked,
    dense,
    floats,
    fresh,
    operator,
    plain,
)
from matrixstate.ops.conv.operators import complete

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


complete("cpu")
