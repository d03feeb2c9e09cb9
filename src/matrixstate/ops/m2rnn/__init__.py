"""The recurrence of M²RNN: a non-linear RNN whose state is a matrix."""

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import accumulation_dtype, expect, expect_floating, expect_reset, full_precision
from matrixstate.ops._dispatch import choose
from matrixstate.ops.m2rnn import reference


def m2rnn_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    w: Tensor,
    f: Tensor,
    state: Tensor | None = None,
    *,
    grad_clip: float | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """h_t = f_t h_{t-1} + (1 - f_t) tanh(h_{t-1} w + k_t v_tᵀ), y_t = q_tᵀ h_t.

    Sizes: B batch, T sequence, H heads, K key width, V value width. H is the largest of the five head counts; a
    tensor with G heads, G a divisor of H, is shared by contiguous groups: head n uses n // (H/G).

    Args:
        q: [B, T, Hq, K] floating point, T >= 0. Read-out; not scaled.
        k: [B, T, Hk, K], dtype of `q`.
        v: [B, T, Hv, V], dtype of `q`.
        w: [Hw, V, V] floating point. Acts on the state from the right, so the K rows of the state never mix.
        f: [B, T, Hf] floating point, probability: the share of the old state that is kept. 1 is no step at
            all: the state, and in the backward pass its gradient, pass exactly as they are.
        state: [B, H, K, V], dtype of `q` but at least float32. h_0. Default: zeros.
        grad_clip: c > 0. Forward changes nothing; backward clamps the whole gradient of each h_t elementwise to
            [-c, c] once, before it goes on to step t's inputs. The gradients of q and of `state` are not clamped.
            Default: no clamping.
        reset: [B, T] bool. True starts a document: that step goes on from zeros.
        backend: "auto" takes the first that can run; a name from `OPS` takes that one or fails.

    Returns:
        y: [B, T, H, V], dtype of `q`. Sums are in at least float32.
        state: [B, H, K, V], at least float32. h_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or head counts that do not divide.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·T·H·K·V·(V + 3) multiply-adds and B·T·H·K·V tanh; backward of the reference keeps every state.
    Source: Mishra et al., "M²RNN: Non-Linear RNNs with Matrix-Valued States for Scalable Language Modeling".
    """
    op = "m2rnn_scan"
    B, T, K, V, H = _check(op, q, k, v, w, f, grad_clip)
    expect_reset(op, reset, q)
    dtype = accumulation_dtype(q.dtype)
    if state is None:
        state = q.new_zeros(B, H, K, V, dtype=dtype)
    expect(op, "state", state, (B, H, K, V), q, dtype)
    chosen = choose(op, backend, q.device.type, q.dtype)
    if T == 0:
        return q.new_zeros(B, 0, H, V), state
    if chosen == "cpu":
        inputs = q, k, v, w.to(dtype), f.to(dtype), state
        keep = torch.is_grad_enabled() and any(a.requires_grad for a in inputs)
        y, last, _ = torch.ops.matrixstate.m2rnn_scan_cpu(*inputs, reset, grad_clip or 0.0, keep)
        return y, last
    with full_precision(q):
        q_all, k_all, v_all, f_all = (_share(a.to(dtype), 2, H) for a in (q, k, v, f))
        w_all = _share(w.to(dtype), 0, H)
        y, last = reference.m2rnn_scan(q_all, k_all, v_all, w_all, f_all, state, grad_clip, reset)
    return y.to(q.dtype), last


def _check(op: str, q: Tensor, k: Tensor, v: Tensor, w: Tensor, f: Tensor, grad_clip: float | None) -> tuple[int, ...]:
    """Checks shapes and head counts; returns B, T, K, V, H."""
    expect_floating(op, "q", q, "B T Hq K")
    expect_floating(op, "v", v, "B T Hv V")
    for name, tensor, letters in (("k", k, "B T Hk K"), ("w", w, "Hw V V"), ("f", f, "B T Hf")):
        expect_floating(op, name, tensor, letters)
    B, T, _, K = q.shape
    V = v.shape[-1]
    expect(op, "k", k, (B, T, k.shape[2], K), q)
    expect(op, "v", v, (B, T, v.shape[2], V), q)
    expect(op, "w", w, (w.shape[0], V, V), q, w.dtype)
    expect(op, "f", f, (B, T, f.shape[2]), q, f.dtype)
    heads = {"q": q.shape[2], "k": k.shape[2], "v": v.shape[2], "w": w.shape[0], "f": f.shape[2]}
    H = max(heads.values())
    if any(n == 0 or H % n for n in heads.values()):
        counts = ", ".join(f"{name} {n}" for name, n in heads.items())
        raise ShapeError(f"{op}: every head count must divide the largest, {H}, got {counts}")
    if grad_clip is not None and not grad_clip > 0:
        raise ShapeError(f"{op}: grad_clip must be positive or None, got {grad_clip}")
    return B, T, K, V, H


def _share(tensor: Tensor, axis: int, heads: int) -> Tensor:
    """Repeats each head of `axis` for its contiguous group."""
    group = heads // tensor.shape[axis]
    return tensor if group == 1 else torch.repeat_interleave(tensor, group, dim=axis)
