"""Causal convolution along the sequence, one filter per channel."""

from typing import Literal

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._align import filtered
from matrixstate.ops._checks import expect, expect_flags, expect_floating, first_state
from matrixstate.ops._dispatch import implementation


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """y_t = act(u_t), u_t = bias + sum over lags j < K of weight[:, K-1-j] * x_{t-j}, channel by channel.

    Sizes: B batch, T sequence, C channels, K filter width.

    Args:
        x: [B, T, C] floating point, T >= 0.
        weight: [C, K] floating point, K >= 1. The last column multiplies the current step.
        bias: [C] floating point. Default: none.
        state: [B, K-1, C], dtype of `x` but at least float32. The last K-1 inputs. Default: zeros.
        activation: "silu" for u·sigmoid(u) of every sum, in the same pass over memory. Default: none.
        mask: [B, T] bool, True at real steps. A padded step is left out: it neither reads nor shifts the state, and its
            y is undefined. Default: all real.
        reset: [B, T] bool. True at a document's first step: no input before it is read. Ignored at padded steps.
        backend: "auto" takes the first that can run; a name from `OPS` takes that one or raises.

    Returns:
        y: [B, T, C], dtype of `x`. Sums are in at least float32.
        state: [B, K-1, C], at least float32. The last K-1 inputs of the current document, zeros before it.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·T·C·K multiply-adds.
    """
    op = "causal_conv"
    expect_floating(op, "x", x, "B T C")
    expect_floating(op, "weight", weight, "C K")
    B, _, C = x.shape
    K = weight.shape[1]
    if K == 0:
        raise ShapeError(f"{op}: weight must be [C, K] with K >= 1, got {list(weight.shape)}")
    expect(op, "weight", weight, (C, K), x, weight.dtype)
    if bias is not None:
        expect(op, "bias", bias, (C,), x, bias.dtype)
    expect_flags(op, x, reset=reset, mask=mask)
    if activation not in (None, "silu"):
        raise ShapeError(f"{op}: activation must be 'silu' or None, got {activation!r}")
    state = first_state(op, state, (B, K - 1, C), x)
    run = implementation(op, backend, x.device.type, x.dtype, *(["K > 8"] if K > 8 else []))
    if x.shape[1] == 0:
        return torch.zeros_like(x), state
    return filtered(lambda x, past, starts: run(x, weight, bias, past, starts, activation), x, state, mask, reset)
