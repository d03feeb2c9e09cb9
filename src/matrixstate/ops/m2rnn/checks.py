"""Checks of the step of an M²RNN layer that its backends share; the native kernel makes its own."""

from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import accumulation_dtype, expect, expect_floating
from matrixstate.ops.m2rnn.weights import M2RNNWeights


def check_step(op: str, x: Tensor, weights: M2RNNWeights, past: Tensor | None, state: Tensor) -> int:
    """Checks shapes and head counts; returns C."""
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
