"""One token through a gated short convolution: what generation calls once per layer and token."""

import torch
from torch import Tensor

from matrixstate.ops._checks import accumulation_dtype, expect, expect_floating
from matrixstate.ops._dispatch import choose
from matrixstate.ops.conv import causal_conv


def gated_conv_step(
    x: Tensor, gate: Tensor, weight: Tensor, norm: Tensor, past: Tensor, *, eps: float = 1e-5, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """y = RMSNorm(silu(conv(x)) ∘ silu(gate)) for one token.

    For inference: it has no gradient. The same numbers as `causal_conv` and what a layer puts around it, which round
    in between where x is bfloat16.

    Args:
        x: [B, 1, C] floating point.
        gate: [B, 1, C], dtype of `x`.
        weight: [C, K] floating point, K >= 1. The last column is the present step's.
        norm: [C] floating point.
        past: [B, K-1, C], dtype of `x` but at least float32. The last inputs.
        eps: added to the mean square.
        backend: as `causal_conv`; "auto" takes the first that can run.

    Returns:
        y: [B, 1, C], dtype of `norm`.
        past: as given, one token later.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·C·(K + 3) multiply-adds, in one call of about 5 µs beside them.
    """
    chosen = choose("causal_conv", backend, x.device.type, x.dtype)
    if chosen == "cpu":
        from matrixstate.ops.conv.kernel_cpu import step

        return step(x, gate, weight, norm, past, eps)
    op, dtype = "gated_conv_step", accumulation_dtype(x.dtype)
    expect_floating(op, "x", x, "B 1 C")
    expect_floating(op, "weight", weight, "C K")
    B, _, C = x.shape
    expect(op, "x", x, (B, 1, C), x)
    expect(op, "gate", gate, (B, 1, C), x)
    expect(op, "weight", weight, (C, max(weight.shape[1], 1)), x, weight.dtype)
    expect(op, "norm", norm, (C,), x, norm.dtype)
    expect(op, "past", past, (B, weight.shape[1] - 1, C), x, dtype)
    y, past = causal_conv(x.to(dtype), weight, state=past, activation="silu", backend=chosen)
    y = y * torch.nn.functional.silu(gate.to(dtype))
    return torch.nn.functional.rms_norm(y, (C,), norm.to(dtype), eps).to(norm.dtype), past
