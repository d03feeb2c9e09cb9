"""The recurrence of M²RNN: a non-linear RNN whose state is a matrix."""

from torch import Tensor

from matrixstate.ops._checks import expect, expect_clip, expect_flags, expect_floating, first_state
from matrixstate.ops._dispatch import implementation
from matrixstate.ops._heads import most_heads


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
        q: [B, T, Hq, K] floating point, T >= 0. Reads the state; not scaled.
        k: [B, T, Hk, K], dtype of `q`.
        v: [B, T, Hv, V], dtype of `q`.
        w: [Hw, V, V] floating point. Acts on the state from the right, so the K rows of the state never mix.
        f: [B, T, Hf] floating point in [0, 1], the forget gate. At 1 the state, and in the backward pass its gradient,
            pass unchanged, bit for bit: the step is the identity.
        state: [B, H, K, V], dtype of `q` but at least float32. h_0. Default: zeros.
        grad_clip: c > 0. In the backward pass the whole gradient of each h_t is clamped elementwise to [-c, c] once,
            before it passes to the inputs of step t. The gradients of q and of `state` are not clamped, nor is any
            where f_t = 1. Default: no clamping.
        reset: [B, T] bool. True at a document's first step: the state is reset to zeros before it.
        backend: "auto" takes the first that can run; a name from `OPS` takes that one or raises.

    Returns:
        y: [B, T, H, V], dtype of `q`. Sums are in at least float32.
        state: [B, H, K, V], at least float32. h_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or head counts that do not divide.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·T·H·K·V·(V + 3) multiply-adds and B·T·H·K·V tanh; the reference saves every state for the backward
    pass.
    Source: Mishra et al., "M²RNN: Non-Linear RNNs with Matrix-Valued States for Scalable Language Modeling".
    """
    op = "m2rnn_scan"
    B, T, K, V, H = _check(op, q, k, v, w, f)
    expect_clip(op, grad_clip)
    expect_flags(op, q, reset=reset)
    state = first_state(op, state, (B, H, K, V), q)
    run = implementation(op, backend, q.device.type, q.dtype, *(("V > 64",) if V > 64 else ()))
    if T == 0:
        return q.new_zeros(B, 0, H, V), state
    return run(q, k, v, w, f, state, grad_clip, reset)


def _check(op: str, q: Tensor, k: Tensor, v: Tensor, w: Tensor, f: Tensor) -> tuple[int, ...]:
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
    return B, T, K, V, most_heads(op, q=q.shape[2], k=k.shape[2], v=v.shape[2], w=w.shape[0], f=f.shape[2])
