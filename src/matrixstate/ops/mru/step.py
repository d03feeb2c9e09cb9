"""One token through an MRU layer except for its projections: generation calls it once per layer and token."""

from torch import Tensor

from matrixstate.ops._dispatch import implementation
from matrixstate.ops.mru.checks import expect_scaled
from matrixstate.ops.mru.weights import MRUWeights, State


def mru_step(
    elements: Tensor,
    value: Tensor | None,
    forget: Tensor | None,
    gate: Tensor | None,
    weights: MRUWeights,
    past: Tensor | None,
    state: State,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None, State]:
    """y = RMSNorm((read(h) W_down + skip ∘ v) ∘ silu(gate)) with h = f·state·X(elements) + v, for one token.

    v is the value after the convolution and silu, f = exp(-e^log_rate softplus(forget + bias)), and balanced weights
    write sqrt(1 - f²) v. For inference: it has no gradient. The result is that of `causal_conv`, `mru_scan` and the
    rest of the layer, which round in between where the inputs are bfloat16.

    Sizes: B batch, H heads, D order of the state, C channels of each of its rows after W_down.

    Args:
        elements: [B, 1, H, n] floating point; n is that of the builder for order D.
        value: [B, 1, H·D²], dtype of `elements`; given where `weights.conv` is, and only there.
        forget: [B, 1, H], dtype of `elements`; given where `weights.log_rate` is, and only there.
        gate: [B, 1, H·D·C], dtype of `elements`, or None for no gate.
        weights: of the layer.
        past: [B, taps-1, H·D²], dtype of `elements` but at least float32: the convolution's last inputs; or None.
        state: as `mru_scan` takes and returns it.
        backend: as `mru_scan`; "auto" takes the first that can run.

    Returns:
        y: [B, 1, H·D·C], dtype of `weights.norm`, or of `elements` without a norm.
        past, state: after this token.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or a part without its weights.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: that of one step of `mru_scan`, and about 10 µs for the call.
    """
    device, dtype = elements.device.type, elements.dtype
    run = implementation("mru_scan", backend, device, dtype, weights.builder, function="mru_step")
    expect_scaled("mru_step", state, weights.rescale)
    # The backend checks the rest: the kernel does so in a hundredth of the time.
    return run(elements, value, forget, gate, weights, past, state)
