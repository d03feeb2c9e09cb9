"""One token through a gated short convolution: generation calls it once per layer and token."""

from torch import Tensor

from matrixstate.ops._dispatch import implementation


def gated_conv_step(
    x: Tensor, gate: Tensor, weight: Tensor, norm: Tensor, past: Tensor, *, eps: float = 1e-5, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """y = RMSNorm(silu(conv(x)) ∘ silu(gate)) for one token.

    For inference: it has no gradient. The result is that of `causal_conv` and the rest of the layer, which round in
    between where x is bfloat16.

    Args:
        x: [B, 1, C] floating point.
        gate: [B, 1, C], dtype of `x`.
        weight: [C, K] floating point, K >= 1. The last column multiplies the current step.
        norm: [C] floating point.
        past: [B, K-1, C], dtype of `x` but at least float32. The last inputs.
        eps: added to the mean square.
        backend: as `causal_conv`; "auto" takes the first that can run.

    Returns:
        y: [B, 1, C], dtype of `norm`.
        past: after this token.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·C·(K + 3) multiply-adds, and about 5 µs for the call.
    """
    run = implementation("causal_conv", backend, x.device.type, x.dtype, function="gated_conv_step")
    return run(
        x, gate, weight, norm, past, eps
    )  # which checks the inputs: the kernel does so in a hundredth of the time
