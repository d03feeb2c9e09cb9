"""One token through an M²RNN layer except for its two projections: generation calls it once per layer and token."""

from torch import Tensor

from matrixstate.ops._dispatch import implementation
from matrixstate.ops.m2rnn.weights import M2RNNWeights


def m2rnn_step(
    x: Tensor, weights: M2RNNWeights, past: Tensor | None, state: Tensor, *, backend: str = "auto"
) -> tuple[Tensor, Tensor | None, Tensor]:
    """y = RMSNorm((qᵀ h + residual ∘ v) ∘ silu(gate)) with h = f·state + (1 - f) tanh(state w + k vᵀ), for one token.

    x is the concatenation of q, k, v, the forget gate's input z, and the gate; q, k and v pass through the convolution
    and silu first, and f = exp(-e^log_rate softplus(z + bias)). For inference: it has no gradient. The result is that
    of `causal_conv`, `m2rnn_scan` and the rest of the layer, which round in between where x is bfloat16.

    Sizes: B batch, H heads, K key width, V value width, C channels of q, k and v. Every other head count divides H;
    head n of H uses head n // (H/G) of G.

    Args:
        x: [B, 1, C + Hf + Hg·V] floating point, C = Hq·K + Hk·K + Hv·V.
        weights: of the layer.
        past: [B, taps-1, C], dtype of `x` but at least float32: the convolution's last inputs; None without one.
        state: [B, H, K, V], dtype of `x` but at least float32.
        backend: as `m2rnn_scan`; "auto" takes the first that can run.

    Returns:
        y: [B, 1, H·V], dtype of `weights.norm`.
        past, state: after this token.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or head counts that do not divide.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·H·K·V·(V + 3) multiply-adds and B·H·K·V tanh, and about 10 µs for the call.
    """
    run = implementation("m2rnn_scan", backend, x.device.type, x.dtype, function="m2rnn_step")
    return run(x, weights, past, state)  # which checks the inputs: the kernel does so in a hundredth of the time
