"""One token through an MRU layer, but for its projections: what generation calls once per layer and token."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import accumulation_dtype, expect, expect_floating
from matrixstate.ops._dispatch import choose
from matrixstate.ops.conv import causal_conv
from matrixstate.ops.matrix import ScaledState
from matrixstate.ops.mru import mru_scan

State = Tensor | ScaledState


class MRUWeights(NamedTuple):
    """What an MRU layer has between its projections. Tensors are floating point; None leaves a part out."""

    builder: str  # as `mru_scan`, like the next three
    rescale: bool
    readout: Literal["state", "normalised", "bounded"]
    bound: float
    down: Tensor  # [H, D, C]
    conv: Tensor | None  # [H·D², taps]: the short convolution of what is written
    log_rate: Tensor | None  # [H], of the forget gate, as the next
    bias: Tensor | None  # [H]
    skip: Tensor | None  # [H·D²], where C = D
    norm: Tensor | None  # [H·D·C]
    eps: float = 1e-5
    balanced: bool = False  # write sqrt(1 - f²) v, which needs conv and log_rate


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
    write sqrt(1 - f²) v. For inference: it
    has no gradient. The same numbers as `causal_conv`, `mru_scan` and what a layer puts around them, which round in
    between where the inputs are bfloat16.

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
        past: as given, one token later.
        state: as given, one token later.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or a part without its weights.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: that of one step of `mru_scan`, in one call of about 10 µs beside it.
    """
    chosen = choose("mru_scan", backend, elements.device.type, elements.dtype, weights.builder)
    if isinstance(state, tuple) != weights.rescale:
        expected = "a ScaledState" if weights.rescale else "a tensor"
        raise ShapeError(f"mru_step: state must be {expected}, got {type(state).__name__}")
    if chosen == "cpu":
        from matrixstate.ops.mru.kernel_cpu import step

        return step(elements, value, forget, gate, weights, past, state)
    _check("mru_step", elements, value, forget, gate, weights, past)
    return _step(elements, value, forget, gate, weights, past, state, chosen)


def write_share(log_decay: Tensor) -> Tensor:
    """log f -> sqrt(1 - f²), which keeps the variance of a state that forgets with f and is written with noise.

    At least 1e-6, where the root's slope is still finite. Source: Orvieto et al. 2023, the LRU's normalisation.
    """
    return (-torch.expm1(2 * log_decay)).clamp_min(1e-12).sqrt()


def _check(
    op: str,
    elements: Tensor,
    value: Tensor | None,
    forget: Tensor | None,
    gate: Tensor | None,
    weights: MRUWeights,
    past: Tensor | None,
) -> None:
    """Checks what `mru_scan` does not, as the compiled step does itself in a hundredth of the time."""
    expect_floating(op, "elements", elements, "B 1 H n")
    expect_floating(op, "down", weights.down, "H D C")
    B, (H, D, C) = len(elements), weights.down.shape
    expect(op, "elements", elements, (B, 1, H, elements.shape[3]), elements)
    pairs = {"value": (value, weights.conv), "forget": (forget, weights.log_rate), "bias": (weights.bias, forget)}
    for name, (given, other) in {**pairs, "past": (past, weights.conv)}.items():
        if (given is None) != (other is None):
            raise ShapeError(f"{op}: {name} must be given where its weights are, and only there")
    inputs = {"value": (value, H * D * D), "forget": (forget, H), "gate": (gate, H * D * C)}
    for name, (given, channels) in inputs.items():
        if given is not None:
            expect(op, name, given, (B, 1, channels), elements, given.dtype)
    shapes = {"log_rate": (H,), "bias": (H,), "skip": (H * D * D,), "norm": (H * D * C,)}
    for name, shape in shapes.items():
        tensor = getattr(weights, name)
        if tensor is not None:
            expect(op, name, tensor, shape, elements, tensor.dtype)
    if weights.balanced and (value is None or forget is None):
        raise ShapeError(f"{op}: balanced needs value and forget")
    if weights.skip is not None and (value is None or C != D):
        raise ShapeError(f"{op}: skip needs value and as many channels as that")
    if weights.conv is not None and past is not None:
        expect_floating(op, "conv", weights.conv, "H·D² taps")
        taps = weights.conv.shape[1]
        expect(op, "conv", weights.conv, (H * D * D, max(taps, 1)), elements, weights.conv.dtype)
        expect(op, "past", past, (B, taps - 1, H * D * D), elements, accumulation_dtype(elements.dtype))


def _step(
    elements: Tensor,
    value: Tensor | None,
    forget: Tensor | None,
    gate: Tensor | None,
    weights: MRUWeights,
    past: Tensor | None,
    state: State,
    backend: str,
) -> tuple[Tensor, Tensor | None, State]:
    """The definition, by the ordinary ops."""
    dtype, D = accumulation_dtype(elements.dtype), weights.down.shape[1]
    added = decay = None
    if value is not None and weights.conv is not None:
        conv_backend = "reference" if backend == "reference" else "auto"
        value, past = causal_conv(value.to(dtype), weights.conv, state=past, activation="silu", backend=conv_backend)
        added = value.unflatten(-1, (-1, D, D))
    if forget is not None and weights.log_rate is not None and weights.bias is not None:
        step = torch.nn.functional.softplus(forget.to(dtype) + weights.bias.to(dtype))
        log_decay = -weights.log_rate.to(dtype).exp() * step
        decay = torch.exp(log_decay)
        if weights.balanced and added is not None:
            added = added * write_share(log_decay)[..., None, None]
    y, state = mru_scan(
        elements.to(dtype),
        weights.down,
        added,
        state,
        builder=weights.builder,
        decay=decay,
        rescale=weights.rescale,
        readout=weights.readout,
        bound=weights.bound,
        backend=backend,
    )
    y = y.flatten(2)
    if weights.skip is not None and value is not None:
        y = y + weights.skip.to(dtype) * value
    if gate is not None:
        y = y * torch.nn.functional.silu(gate.to(dtype))
    if weights.norm is None:
        return y.to(elements.dtype), past, state
    y = torch.nn.functional.rms_norm(y, y.shape[2:], weights.norm.to(dtype), weights.eps)
    return y.to(weights.norm.dtype), past, state
