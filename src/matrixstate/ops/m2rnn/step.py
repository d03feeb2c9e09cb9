"""One token through an M²RNN layer, but for its two projections: what generation calls once per layer and token."""

from typing import NamedTuple

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import accumulation_dtype, expect, expect_floating
from matrixstate.ops._dispatch import choose
from matrixstate.ops.conv import causal_conv
from matrixstate.ops.m2rnn import m2rnn_scan


class M2RNNWeights(NamedTuple):
    """What an M²RNN layer has between its projections. Tensors are floating point."""

    heads: tuple[int, int, int]  # of q, k and v
    unit_keys: bool  # scale q and k to length 1
    conv: Tensor | None  # [C, taps]: the short convolution over the C channels of q, k and v; None for none
    log_rate: Tensor  # [Hf]
    bias: Tensor  # [Hf]
    w: Tensor  # [Hw, V, V]
    residual: Tensor | None  # [H, V]; None for none
    norm: Tensor  # [H·V]
    eps: float = 1e-5


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
    chosen = choose("m2rnn_scan", backend, x.device.type, x.dtype)
    if chosen == "cpu":
        from matrixstate.ops.m2rnn.kernel_cpu import step

        return step(x, weights, past, state)
    channels = _check("m2rnn_step", x, weights, past, state)
    return _step(x.to(state.dtype), weights, past, state, channels, chosen)


def _check(op: str, x: Tensor, weights: M2RNNWeights, past: Tensor | None, state: Tensor) -> int:
    """Checks shapes and head counts, as the compiled step does itself in a hundredth of the time; returns C."""
    expect_floating(op, "x", x, "B 1 C+Hf+Hg·V")
    expect_floating(op, "state", state, "B H K V")
    B, H, K, V = state.shape
    (q, k, v), f, w = weights.heads, weights.log_rate.shape[0], weights.w.shape[0]
    channels = (q + k) * K + v * V
    g = (x.shape[2] - channels - f) // max(V, 1)
    if not all(n > 0 and H % n == 0 for n in (q, k, v, f, w, g)):
        raise ShapeError(f"{op}: every head count must divide {H}, got q {q}, k {k}, v {v}, f {f}, w {w}, gate {g}")
    expect(op, "x", x, (x.shape[0], 1, channels + f + g * V), x)
    dtype = accumulation_dtype(x.dtype)
    expect(op, "state", state, (x.shape[0], H, K, V), x, dtype)
    shapes = {"log_rate": (f,), "bias": (f,), "w": (w, V, V), "residual": (H, V), "norm": (H * V,)}
    for name, shape in shapes.items():
        tensor = getattr(weights, name)
        if tensor is not None:
            expect(op, name, tensor, shape, x, tensor.dtype)
    if (weights.conv is None) != (past is None):
        raise ShapeError(f"{op}: past must be given where weights.conv is, and only there")
    if weights.conv is not None and past is not None:
        expect_floating(op, "conv", weights.conv, "C taps")
        taps = weights.conv.shape[1]
        expect(op, "conv", weights.conv, (channels, max(taps, 1)), x, weights.conv.dtype)
        expect(op, "past", past, (B, taps - 1, channels), x, dtype)
    return channels


def _step(
    x: Tensor, weights: M2RNNWeights, past: Tensor | None, state: Tensor, channels: int, backend: str
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The definition, by the ordinary ops."""
    _, H, K, V = state.shape
    log_rate, bias, norm = (a.to(state.dtype) for a in (weights.log_rate, weights.bias, weights.norm))
    (heads_q, heads_k, heads_v), forget_heads = weights.heads, len(bias)
    mixed, z, gate = x.split((channels, forget_heads, x.shape[2] - channels - forget_heads), dim=-1)
    if weights.conv is not None:
        mixed, past = causal_conv(mixed, weights.conv, state=past, activation="silu", backend=backend)
    parts = mixed.split((heads_q * K, heads_k * K, heads_v * V), dim=-1)
    q, k, v = (a.unflatten(-1, (-1, n)) for a, n in zip(parts, (K, K, V), strict=True))
    if weights.unit_keys:
        q, k = torch.nn.functional.normalize(q, dim=-1), torch.nn.functional.normalize(k, dim=-1)
    f = torch.exp(-log_rate.exp() * torch.nn.functional.softplus(z + bias))
    y, state = m2rnn_scan(q, k, v, weights.w, f, state, backend=backend)
    if weights.residual is not None:
        y = y + weights.residual * v.repeat_interleave(H // heads_v, dim=2)
    gate = gate.unflatten(-1, (-1, V)).repeat_interleave(H * V // gate.shape[-1], dim=2)
    y = (y * torch.nn.functional.silu(gate)).flatten(2)
    return torch.nn.functional.rms_norm(y, (H * V,), norm, weights.eps).to(weights.norm.dtype), past, state
