"""One token through an M²RNN layer, but for its two projections: what generation calls once per layer and token."""

from torch import Tensor

from matrixstate.ops._dispatch import implementation
from matrixstate.ops.m2rnn.weights import M2RNNWeights


def m2rnn_step(
    x: Tensor, weights: M2RNNWeights, past: Tensor | None, state: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor | None, Tensor]:
    """y = RMSNorm((qᵀ h + residual ∘ v) ∘ silu(gate)) with h = f·state + (1 - f) tanh(state w + k vᵀ), for one token.

    q, k, v, the forget gate's input z and the gate stand side by side in x; q, k and v go through the convolution and
    silu first, and f = exp(-e^log_rate softplus(z + bias)). For inference: it has no gradient. The same numbers as
    `causal_conv`, `m2rnn_scan` and what a layer puts around them, which round in between where x is bfloat16.

    Sizes: B batch, H heads, K key width, V value width, C channels of q, k and v. Every other head count divides H;
    head n of H uses head n // (H/G) of G.

    Args:
        x: [B, 1, C + Hf + Hg·V] floating point, C = Hq·K + Hk·K + Hv·V.
        weights: of the layer.
        past: [B, taps-1, C], dtype of `x` but at least float32; None where there is no convolution. Its last inputs.
        state: [B, H, K, V], dtype of `x` but at least float32.
        backend: as `m2rnn_scan`; "auto" takes the first that can run.

    Returns:
        y: [B, 1, H·V], dtype of `weights.norm`.
        past: as given, one token later.
        state: as given, one token later.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or head counts that do not divide.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·H·K·V·(V + 3) multiply-adds and B·H·K·V tanh, in one call of about 10 µs beside them.
    """
    run = implementation("m2rnn_scan", backend, x.device.type, x.dtype, function="m2rnn_step")
    return run(x, weights, past, state)  # which checks the inputs: the kernel does so in a hundredth of the time
