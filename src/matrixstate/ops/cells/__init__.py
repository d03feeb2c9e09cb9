"""Non-linear recurrent cells with a vector per head: RNN, GRU and LSTM, and any cell by `cell_scan`."""

from typing import NamedTuple

from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import (
    expect,
    expect_clip,
    expect_flags,
    expect_floating,
    expect_optional,
    expect_pair,
    first_state,
)
from matrixstate.ops._dispatch import implementation
from matrixstate.ops._heads import most_heads
from matrixstate.ops.cells.by_name import cell_scan
from matrixstate.ops.cells.equations import CELLS, Cell

__all__ = ["CELLS", "Cell", "LSTMState", "cell_scan", "gru_scan", "lstm_scan", "rnn_scan"]


class LSTMState(NamedTuple):
    """The state of an LSTM."""

    h: Tensor  # [B, H, d], the output
    c: Tensor  # [B, H, d], the cell


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

    Sizes: B batch, T sequence, H heads, d channels of a head; H = 1 is the usual dense cell. H is the largest of the
    head counts; a tensor with G heads, G a divisor of H, is shared by contiguous groups.

    Args:
        x: [B, T, Hx, d] floating point, T >= 0.
        w: [Hw, d, d] floating point.
        state: [B, H, d], dtype of `x` but at least float32. h_0. Default: zeros.
        grad_clip: c > 0. In the backward pass the whole gradient of each h_t is clamped elementwise to [-c, c] once.
        mask: [B, T] bool, True at real steps. A padded step leaves the state unchanged, bit for bit. Default: all
            real.
        reset: [B, T] bool. True at a document's first step: the state is reset to zeros before it. Ignored at padded
            steps.
        backend: "auto" takes the first that can run; a name from `OPS` takes that one or raises.

    Returns:
        y: [B, T, H, d], dtype of `x`. Every h_t. Sums are in at least float32.
        state: [B, H, d], at least float32. h_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or head counts that do not divide.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·T·H·d² multiply-adds. Source: Elman 1990.
    """
    op, inputs, weights = "rnn_scan", {"x": x}, {"w": w}
    shape, reset = _check(op, inputs, weights, grad_clip, mask, reset)
    state = first_state(op, state, shape, x)
    run = implementation(op, backend, x.device.type, x.dtype)
    if x.shape[1] == 0:
        return _no_steps(x, shape), state
    return run(x, w, state, grad_clip, mask, reset)


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
    """f = s(h wf + xf), r = s(h wr + xr), h <- f h + (1 - f) tanh((h r) w + x), with s the logistic sigmoid.

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
    inputs, weights = {"x": x, "xf": xf, "xr": xr}, {"w": w, "wf": wf, "wr": wr}
    shape, reset = _check(op, inputs, weights, grad_clip, mask, reset)
    expect_optional(op, "bias", bias, x, shape[2:], shape[1:])
    state = first_state(op, state, shape, x)
    run = implementation(op, backend, x.device.type, x.dtype)
    if x.shape[1] == 0:
        return _no_steps(x, shape), state
    if reset_after and bias is None:
        bias = state.new_zeros(shape[2:])
    return run(x, xf, xr, w, wf, wr, bias, state, grad_clip, mask, reset)


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
    if state is not None:
        expect_pair(op, state, "an LSTMState")
    inputs, weights = {"x": x, "xi": xi, "xf": xf, "xo": xo}, {"w": w, "wi": wi, "wf": wf, "wo": wo}
    shape, reset = _check(op, inputs, weights, grad_clip, mask, reset)
    h, c = (None, None) if state is None else state
    h, c = first_state(op, h, shape, x, "state.h"), first_state(op, c, shape, x, "state.c")
    run = implementation(op, backend, x.device.type, x.dtype)
    if x.shape[1] == 0:
        return _no_steps(x, shape), LSTMState(h, c)
    y, h, c = run(*inputs.values(), *weights.values(), h, c, grad_clip, mask, reset)
    return y, LSTMState(h, c)


def _check(
    op: str,
    inputs: dict[str, Tensor],
    weights: dict[str, Tensor],
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[tuple[int, int, int], Tensor | None]:
    """Checks all but states and biases; returns the shape of a state, (B, H, d), and the resets of real steps alone."""
    x = inputs["x"]
    expect_floating(op, "x", x, "B T H d")
    B, T, _, d = x.shape
    for name, a in inputs.items():
        expect_floating(op, name, a, "B T H d")
        expect(op, name, a, (B, T, a.shape[2], d), x)
    for name, w in weights.items():
        expect_floating(op, name, w, "H d d")
        expect(op, name, w, (w.shape[0], d, d), x, w.dtype)
    H = most_heads(op, **{n: a.shape[2] for n, a in inputs.items()}, **{n: w.shape[0] for n, w in weights.items()})
    expect_clip(op, grad_clip)
    expect_flags(op, x, mask=mask, reset=reset)
    return (B, H, d), reset if reset is None or mask is None else reset & mask


def _no_steps(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The y of no steps."""
    B, H, d = shape
    return x.new_zeros(B, 0, H, d)
