"""The recurrence of xLSTM's mLSTM: outer products with exponential input gates, by `outer_scan`."""

from typing import NamedTuple

import torch
from torch import Tensor

from matrixstate.ops._checks import accumulation_dtype, expect, expect_any, expect_flags, expect_floating, expect_pair
from matrixstate.ops._running_max import running_max
from matrixstate.ops.outer import outer_scan

NOTHING = -1e4  # an exponent whose exponential is 0 in every dtype, and unlike -inf finite in sums and differences


class MLSTMState(NamedTuple):
    """The sums of `mlstm_scan`, divided by e^max: only their products with it count, and `max` has no gradient."""

    sums: Tensor  # [B, H, K, V + 1], C with n as its last column
    max: Tensor  # [B, H], the largest exponent so far, decayed; -inf where nothing has been written


def mlstm_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_forget: Tensor,
    log_input: Tensor,
    *,
    state: MLSTMState | None = None,
    reset: Tensor | None = None,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, MLSTMState]:
    """C_t = f_t C_{t-1} + e^{i_t} k_t v_tᵀ, n_t = f_t n_{t-1} + e^{i_t} k_t, y_t = C_tᵀ q_t / max(|n_t·q_t|, 1).

    Sizes: B batch, T sequence, H heads, K key width, V value width.

    Args:
        q: [B, T, H, K] floating point, T >= 0. Reads the state; not scaled (xLSTM's has the factor 1/√K).
        k: [B, T, H, K], dtype of `q`.
        v: [B, T, H, V], dtype of `q`.
        log_forget: [B, T, H], natural logarithm of f, <= 0, dtype of `q` or float32.
        log_input: [B, T, H], i, the natural logarithm of the input's weight, of any size: e^i is never formed. -inf
            writes nothing.
        state: the sums before the first step. Default: empty sums.
        reset: [B, T] bool. True at a document's first step: the sums are empty before it.
        chunk, backend: as in `outer_scan`.

    Returns:
        y: [B, T, H, V], dtype of `q`. Sums are in at least float32.
        state: to be passed to the next call.

    Raises: as `outer_scan`.

    The sums are kept divided by e^{m_t} with m_t = max(m_{t-1} + log f_t, i_t), so no exponential exceeds 1; the floor
    of the denominator is then e^{-m_t}. Released kernels add 1e-6 to the divided denominator, which makes their results
    depend on the start of m; this one adds nothing.

    Cost: that of `outer_scan` with V + 1 values, and log2 T passes over the gates.
    Source: Beck et al. 2024, "xLSTM", eq. 19-27 and appendix A.
    """
    op = "mlstm_scan"
    expect_floating(op, "q", q, "B T H K")
    expect_floating(op, "v", v, "B T H V")
    (B, T, H, K), V, dtype = q.shape, v.shape[-1], accumulation_dtype(q.dtype)
    expect(op, "k", k, (B, T, H, K), q)
    expect(op, "v", v, (B, T, H, V), q)
    for name, gate in (("log_forget", log_forget), ("log_input", log_input)):
        expect_any(op, name, gate, q, (B, T, H))
    expect_flags(op, q, reset=reset)
    state = _first(op, state, (B, H, K, V + 1), q, dtype)
    if T == 0:
        return q.new_zeros(B, 0, H, V), state
    decay, write = log_forget.to(dtype), log_input.to(dtype)
    before, now, _, shift = running_max(write.detach(), decay.detach(), state.max, reset)
    decay = (before + decay - shift).masked_fill(before == -torch.inf, 0)  # nothing has been written that could decay
    write = (write - shift).clamp(min=NOTHING)
    values = torch.cat([v.to(dtype), v.new_ones(B, T, H, 1, dtype=dtype)], dim=-1)
    y, sums = outer_scan(
        q.to(dtype),
        k.to(dtype),
        values,
        log_decay=decay,
        log_input=write,
        state=state.sums,
        reset=reset,
        chunk=chunk,
        backend=backend,
    )
    weights = torch.maximum(y[..., -1:].abs(), torch.exp(-shift)[..., None])
    return (y[..., :-1] / weights).to(q.dtype), MLSTMState(sums, now[:, -1].clone())


def _first(op: str, state: MLSTMState | None, shape: tuple[int, ...], q: Tensor, dtype: torch.dtype) -> MLSTMState:
    """The given state, checked, or that of empty sums."""
    if state is None:
        sums = q.new_zeros(shape, dtype=dtype)
        return MLSTMState(sums, sums.new_full(shape[:2], -torch.inf))
    expect_pair(op, state, "an MLSTMState")
    expect(op, "state.sums", state.sums, shape, q, dtype)
    expect(op, "state.max", state.max, shape[:2], q, dtype)
    return MLSTMState(state.sums, state.max.detach())
