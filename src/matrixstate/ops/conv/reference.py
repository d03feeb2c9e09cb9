"""The definition of the causal convolution: plain PyTorch. Its gradient is autograd's."""

import torch
from torch import Tensor

from matrixstate.ops._checks import accumulation_dtype, expect, expect_floating, widened
from matrixstate.ops._plain import unsupported

__all__ = ["causal_conv", "gated_conv_step", "long_conv", "unsupported"]


@widened
def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, reset: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    """x [B,T,C], weight [C,K], bias [C] or None, state [B,K-1,C], reset [B,T] or None -> y [B,T,C] in the dtype of x,
    state.
    """
    T, K = x.shape[1], weight.shape[1]
    inputs = torch.cat([state, x], dim=1)
    document = None  # of every input
    if reset is not None:  # 0 for the inputs in the state, then one more at every reset
        document = torch.nn.functional.pad(reset.long().cumsum(dim=1), (K - 1, 0))
    y = x * weight[:, K - 1]
    for lag in range(1, K):
        window = slice(K - 1 - lag, K - 1 - lag + T)
        term = inputs[:, window] * weight[:, K - 1 - lag]
        if document is not None:
            term = term.masked_fill((document[:, window] != document[:, K - 1 :])[..., None], 0)
        y = y + term
    y = y if bias is None else y + bias
    y = y if activation is None else torch.nn.functional.silu(y)
    state = inputs[:, T:].clone()  # a view would keep all inputs alive
    if document is not None:
        state = state.masked_fill((document[:, T:] != document[:, -1:])[..., None], 0)
    return y, state


def long_conv(u: Tensor, kernel: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """u [B,T,D], kernel [D,L], state [B,L-1,D], reset [B,T] or None -> y [B,T,D] in the dtype of u, state."""
    return causal_conv(u, kernel.flip(1), None, state, reset, None)


def gated_conv_step(
    x: Tensor, gate: Tensor, weight: Tensor, norm: Tensor, past: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The definition of the step. Shapes and dtypes as in the op, which leaves their check to the backend."""
    op, dtype = "gated_conv_step", accumulation_dtype(x.dtype)
    expect_floating(op, "x", x, "B 1 C")
    expect_floating(op, "weight", weight, "C K")
    B, _, C = x.shape
    expect(op, "x", x, (B, 1, C), x)
    expect(op, "gate", gate, (B, 1, C), x)
    expect(op, "weight", weight, (C, max(weight.shape[1], 1)), x, weight.dtype)
    expect(op, "norm", norm, (C,), x, norm.dtype)
    expect(op, "past", past, (B, weight.shape[1] - 1, C), x, dtype)
    y, past = causal_conv(x.to(dtype), weight, None, past, None, "silu")
    y = y * torch.nn.functional.silu(gate.to(dtype))
    return torch.nn.functional.rms_norm(y, (C,), norm.to(dtype), eps).to(norm.dtype), past
