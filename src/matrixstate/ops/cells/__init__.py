"""Non-linear recurrent cells with a vector per head: RNN, GRU and LSTM."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import (
    accumulation_dtype,
    expect,
    expect_any,
    expect_floating,
    expect_reset,
    full_precision,
)
from matrixstate.ops._cpu import refuse_tangents
from matrixstate.ops._dispatch import choose
from matrixstate.ops.cells import reference


class LSTMState(NamedTuple):
    """What an LSTM carries."""

    h: Tensor  # [B, H, d], what is shown
    c: Tensor  # [B, H, d], what is kept


def rnn_scan(
    x: Tensor,
    w: Tensor,
    state: Tensor | None = None,
    *,
    grad_clip: float | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h_t = tanh(h_{t-1} w + x_t).

    Sizes: B batch, T sequence, H heads, d channels of a head; H = 1 is the dense classic. H is the largest of the head
    counts; a tensor with G heads, G a divisor of H, is shared by contiguous groups.

    Args:
        x: [B, T, Hx, d] floating point, T >= 0.
        w: [Hw, d, d] floating point.
        state: [B, H, d], dtype of `x` but at least float32. h_0. Default: zeros.
        grad_clip: c > 0. In the backward pass the whole gradient of each h_t is clamped elementwise to [-c, c] once.
        mask: [B, T] bool, True at real steps. A padded step changes no bit of the state. Default: all real.
        reset: [B, T] bool. True starts a document: that step goes on from zeros. Ignored at padded steps.
        backend: "auto" takes the first that can run; a name from `OPS` takes that one or fails.

    Returns:
        y: [B, T, H, d], dtype of `x`. Every h_t. Sums are in at least float32.
        state: [B, H, d], at least float32. h_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or head counts that do not divide.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·T·H·d² multiply-adds. Source: Elman 1990.
    """
    y, (h,) = _scan("rnn_scan", reference.rnn_step, {"x": x}, {"w": w}, (state,), grad_clip, mask, reset, backend)
    return y, h


def gru_scan(
    x: Tensor,
    xf: Tensor,
    xr: Tensor,
    w: Tensor,
    wf: Tensor,
    wr: Tensor,
    state: Tensor | None = None,
    *,
    reset_after: bool = False,
    bias: Tensor | None = None,
    grad_clip: float | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """f = s(h wf + xf), r = s(h wr + xr), h <- f h + (1 - f) tanh((h r) w + x), with s the logistic function.

    Args:
        x, xf, xr: [B, T, H·, d] floating point, one dtype. Inputs of candidate, forget gate and reset gate.
        w, wf, wr: [H·, d, d] floating point.
        reset_after: cuDNN's and PyTorch's form: the candidate is tanh(r (h w + bias) + x).
        bias: [d] or [H, d], only with `reset_after`. Default: zeros.
        state, grad_clip, mask, reset, backend: as in `rnn_scan`.

    Returns, raises, head sharing: as `rnn_scan`.

    Cost: 3·B·T·H·d² multiply-adds. Source: Cho et al. 2014 (reset before).
    """
    op = "gru_scan"
    if bias is not None and not reset_after:
        raise ShapeError(f"{op}: bias must be None unless reset_after is true, got {list(bias.shape)}")
    dtype = accumulation_dtype(x.dtype)
    wide = torch.zeros(x.shape[-1:], dtype=dtype, device=x.device) if bias is None else bias.to(dtype)
    step = partial(reference.gru_step, bias=wide, reset_after=reset_after)
    inputs, weights = {"x": x, "xf": xf, "xr": xr}, {"w": w, "wf": wf, "wr": wr}
    bias = wide if reset_after else None
    y, (h,) = _scan(op, step, inputs, weights, (state,), grad_clip, mask, reset, backend, bias)
    return y, h


def lstm_scan(
    x: Tensor,
    xi: Tensor,
    xf: Tensor,
    xo: Tensor,
    w: Tensor,
    wi: Tensor,
    wf: Tensor,
    wo: Tensor,
    state: LSTMState | None = None,
    *,
    grad_clip: float | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, LSTMState]:
    """i, f, o = s(h wi + xi), s(h wf + xf), s(h wo + xo); c <- f c + i tanh(h w + x); h <- o tanh(c).

    Args:
        x, xi, xf, xo: [B, T, H·, d] floating point, one dtype. Inputs of candidate, input, forget and output gate.
        w, wi, wf, wo: [H·, d, d] floating point.
        state: `LSTMState` of [B, H, d] tensors. Default: zeros.
        grad_clip, mask, reset, backend: as in `rnn_scan`; the gradients of h and c are clamped.

    Returns:
        y: [B, T, H, d], every h_t; and the `LSTMState` after the last step.

    Raises, head sharing: as `rnn_scan`. Cost: 4·B·T·H·d² multiply-adds. Source: Hochreiter & Schmidhuber 1997; forget
    gate: Gers et al. 2000.
    """
    op = "lstm_scan"
    if state is not None and (not isinstance(state, tuple) or len(state) != 2):
        raise ShapeError(f"{op}: state must be an LSTMState, got {type(state).__name__}")
    inputs, weights = {"x": x, "xi": xi, "xf": xf, "xo": xo}, {"w": w, "wi": wi, "wf": wf, "wo": wo}
    parts = (None, None) if state is None else tuple(state)
    y, (h, c) = _scan(op, reference.lstm_step, inputs, weights, parts, grad_clip, mask, reset, backend)
    return y, LSTMState(h, c)


def _scan(
    op: str,
    step: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: dict[str, Tensor],
    weights: dict[str, Tensor],
    state: tuple[Tensor | None, ...],
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
    backend: str,
    bias: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Checks everything, shares heads, and runs `step` over time."""
    x = inputs["x"]
    B, T, d, H = _check(op, inputs, weights, grad_clip)
    if bias is not None:
        expect_any(op, "bias", bias, x, (d,), (H, d))
    expect_reset(op, mask, x, "mask")
    expect_reset(op, reset, x)
    dtype = accumulation_dtype(x.dtype)
    start = tuple(x.new_zeros(B, H, d, dtype=dtype) if s is None else s for s in state)
    for name, s in zip(("state",) if len(start) == 1 else ("state.h", "state.c"), start, strict=True):
        expect(op, name, s, (B, H, d), x, dtype)
    chosen = choose(op, backend, x.device.type, x.dtype)
    if T == 0:
        return x.new_zeros(B, 0, H, d), start
    reset = reset if reset is None or mask is None else reset & mask
    shared = tuple(_share(a.to(dtype), 2, H) for a in inputs.values())
    wide = {name: _share(w.to(dtype), 0, H) for name, w in weights.items()}
    with full_precision(x):
        if chosen == "cpu":
            y, last = _run_gates(op, shared, tuple(wide.values()), bias, start, grad_clip, mask, reset)
        else:
            y, last = reference.run(partial(step, **wide), shared, start, grad_clip, mask, reset)
    return y.to(x.dtype), last


def _run_gates(
    op: str,
    inputs: tuple[Tensor, ...],
    weights: tuple[Tensor, ...],
    bias: Tensor | None,
    state: tuple[Tensor, ...],
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The operator of backend "cpu", which takes all gates side by side, that of the candidate last."""
    x, w = [*inputs[1:], inputs[0]], torch.cat([*weights[1:], weights[0]], dim=-1)
    h, c = state if len(state) == 2 else (state[0], None)
    if bias is not None:
        bias = bias.to(h.dtype).expand(h.shape[1:]).contiguous()
    tensors = (*x, w, h, *(t for t in (bias, c) if t is not None))
    refuse_tangents(op, tensors)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    run = getattr(torch.ops.matrixstate, f"{op}_cpu")
    y, last_h, last_c, _, _ = run(op, x, w, bias, h, c, mask, reset, grad_clip or 0.0, keep)
    return y, (last_h,) if c is None else (last_h, last_c)


def _check(
    op: str, inputs: dict[str, Tensor], weights: dict[str, Tensor], grad_clip: float | None
) -> tuple[int, int, int, int]:
    """Checks shapes and head counts; returns B, T, d, H."""
    x = inputs["x"]
    expect_floating(op, "x", x, "B T H d")
    B, T, _, d = x.shape
    for name, a in inputs.items():
        expect_floating(op, name, a, "B T H d")
        expect(op, name, a, (B, T, a.shape[2], d), x)
    for name, w in weights.items():
        expect_floating(op, name, w, "H d d")
        expect(op, name, w, (w.shape[0], d, d), x, w.dtype)
    heads = {n: a.shape[2] for n, a in inputs.items()} | {n: w.shape[0] for n, w in weights.items()}
    H = max(heads.values())
    if any(n == 0 or H % n for n in heads.values()):
        counts = ", ".join(f"{name} {n}" for name, n in heads.items())
        raise ShapeError(f"{op}: every head count must divide the largest, {H}, got {counts}")
    if grad_clip is not None and not grad_clip > 0:
        raise ShapeError(f"{op}: grad_clip must be positive or None, got {grad_clip}")
    return B, T, d, H


def _share(tensor: Tensor, axis: int, heads: int) -> Tensor:
    group = heads // tensor.shape[axis]
    return tensor if group == 1 else torch.repeat_interleave(tensor, group, dim=axis)
