"""The M²RNN recurrence as two Triton programs, forward and backward. Equations and names are those of README.md.

One program is some rows of one head for all t. The K rows of a state never mix, so that programs need nothing of each
other: what they contribute to a sum over rows (y, dv, df, dW) or over heads they write apart, and the caller adds it
in a fixed order. Rows and columns beyond K and V are zeros, stay zeros, and are not stored.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import dot, tanh


@triton.jit
def _load_step(
    k_ptr,
    v_ptr,
    f_ptr,
    reset_ptr,
    bt,
    n,
    row,
    column,
    H: tl.constexpr,
    HK: tl.constexpr,
    HV: tl.constexpr,
    HF: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
):
    """k_t, v_t, f_t of head n, and whether the step begins a document. bt: b T + t."""
    k = tl.load(k_ptr + (bt * HK + n // (H // HK)) * K + row, mask=row < K, other=0).to(tl.float32)
    v = tl.load(v_ptr + (bt * HV + n // (H // HV)) * V + column, mask=column < V, other=0).to(tl.float32)
    f = tl.load(f_ptr + bt * HF + n // (H // HF))
    return k, v, f, tl.load(reset_ptr + bt) != 0


@triton.jit
def _activation(h, w, k, v, HALF: tl.constexpr, FAST: tl.constexpr, PRECISION: tl.constexpr):
    """A_t = tanh(H_{t-1} W + k_t v_tᵀ)."""
    return tanh(dot(h, w, HALF, PRECISION) + k[:, None] * v[None, :], FAST)


@triton.jit(do_not_specialize=["T"])
def forward(
    q_ptr,  # [B, T, HQ, K]
    k_ptr,  # [B, T, HK, K]
    v_ptr,  # [B, T, HV, V]
    w_ptr,  # [HW, V, V]
    f_ptr,  # [B, T, HF]
    reset_ptr,  # [B, T] int8
    first_ptr,  # [B, H, K, V]
    y_ptr,  # [parts of K, B, T, H, V]: what each part's rows contribute
    last_ptr,  # [B, H, K, V]
    kept_ptr,  # [B, H, intervals, K, V]: the state before every INTERVAL-th step
    T,
    H: tl.constexpr,
    HQ: tl.constexpr,
    HK: tl.constexpr,
    HV: tl.constexpr,
    HW: tl.constexpr,
    HF: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INTERVAL: tl.constexpr,
    SAVE: tl.constexpr,
    HALF: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)  # 64 bits: offsets may exceed 2^31
    b, n = head // H, head % H
    row, column = part * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    tile = row[:, None] * V + column[None, :]
    inside = (row[:, None] < K) & (column[None, :] < V)
    square = (tl.arange(0, COLUMNS)[:, None] < V) & (column[None, :] < V)
    w = w_ptr + n // (H // HW) * V * V + tl.arange(0, COLUMNS)[:, None] * V + column[None, :]
    w = tl.load(w, mask=square, other=0)
    h = tl.load(first_ptr + head * K * V + tile, mask=inside, other=0)
    y_ptr += part * (tl.num_programs(0) // H).to(tl.int64) * T * H * V
    kept_ptr += head * tl.cdiv(T, INTERVAL) * K * V

    bt = b * T
    k, v, f, fresh = _load_step(k_ptr, v_ptr, f_ptr, reset_ptr, bt, n, row, column, H, HK, HV, HF, K, V)
    for i in range(tl.cdiv(T, INTERVAL)):
        if SAVE:
            tl.store(kept_ptr + i * K * V + tile, h, mask=inside)
        for t in range(i * INTERVAL, tl.minimum((i + 1) * INTERVAL, T)):
            bt = b * T + t
            # The next step's inputs are on their way while this one computes; after the last step, its own again.
            after = b * T + tl.minimum(t + 1, T - 1)
            k_, v_, f_, fresh_ = _load_step(k_ptr, v_ptr, f_ptr, reset_ptr, after, n, row, column, H, HK, HV, HF, K, V)
            q = tl.load(q_ptr + (bt * HQ + n // (H // HQ)) * K + row, mask=row < K, other=0).to(tl.float32)
            h = tl.where(fresh, 0.0, h)
            h = f * h + (1 - f) * _activation(h, w, k, v, HALF, FAST, PRECISION)
            tl.store(y_ptr + (bt * H + n) * V + column, tl.sum(q[:, None] * h, 0), mask=column < V)  # y_t = H_tᵀ q_t
            k, v, f, fresh = k_, v_, f_, fresh_
    tl.store(last_ptr + head * K * V + tile, h, mask=inside)


@triton.jit(do_not_specialize=["T", "clip"])
def backward(
    q_ptr,
    k_ptr,
    v_ptr,
    w_ptr,
    f_ptr,
    reset_ptr,
    kept_ptr,
    scratch_ptr,  # [B, H, parts of K, INTERVAL, ROWS, COLUMNS]: states of the interval at hand
    dy_ptr,  # [B, T, H, V]
    dlast_ptr,  # [B, H, K, V]
    dq_ptr,  # [B, T, H, K], as dk: of every head
    dk_ptr,
    dv_ptr,  # [parts of K, B, T, H, V]
    dw_ptr,  # [B, H, parts of K, V, V]
    df_ptr,  # [parts of K, B, T, H]
    dfirst_ptr,  # [B, H, K, V]
    T,
    clip,
    H: tl.constexpr,
    HQ: tl.constexpr,
    HK: tl.constexpr,
    HV: tl.constexpr,
    HW: tl.constexpr,
    HF: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INTERVAL: tl.constexpr,
    CLIPPED: tl.constexpr,
    HALF: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, n = head // H, head % H
    row, column = part * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    tile = row[:, None] * V + column[None, :]
    inside = (row[:, None] < K) & (column[None, :] < V)
    matrix = tl.arange(0, COLUMNS)[:, None] * V + column[None, :]
    square = (tl.arange(0, COLUMNS)[:, None] < V) & (column[None, :] < V)
    w = tl.load(w_ptr + n // (H // HW) * V * V + matrix, mask=square, other=0)
    intervals = tl.cdiv(T, INTERVAL)
    steps = part * (tl.num_programs(0) // H).to(tl.int64) * T * H  # where this part begins in dv and df
    mine = head * tl.num_programs(1) + part
    scratch = scratch_ptr + mine * INTERVAL * ROWS * COLUMNS
    scratch += tl.arange(0, ROWS)[:, None] * COLUMNS + column[None, :]

    d = tl.load(dlast_ptr + head * K * V + tile, mask=inside, other=0)
    dw = tl.zeros((COLUMNS, COLUMNS), tl.float32)
    for i in range(intervals):
        begin = (intervals - 1 - i) * INTERVAL
        end = tl.minimum(begin + INTERVAL, T)
        # The states of this interval again, from the one that was kept.
        h = tl.load(kept_ptr + (head * intervals + begin // INTERVAL) * K * V + tile, mask=inside, other=0)
        bt = b * T + begin
        k, v, f, fresh = _load_step(k_ptr, v_ptr, f_ptr, reset_ptr, bt, n, row, column, H, HK, HV, HF, K, V)
        for t in range(begin, end):
            after = b * T + tl.minimum(t + 1, T - 1)
            k_, v_, f_, fresh_ = _load_step(k_ptr, v_ptr, f_ptr, reset_ptr, after, n, row, column, H, HK, HV, HF, K, V)
            h = tl.where(fresh, 0.0, h)
            tl.store(scratch + (t - begin) * ROWS * COLUMNS, h)
            h = f * h + (1 - f) * _activation(h, w, k, v, HALF, FAST, PRECISION)
            k, v, f, fresh = k_, v_, f_, fresh_
        tl.debug_barrier()  # a thread may load what another one stored

        bt = b * T + end - 1
        k, v, f, fresh = _load_step(k_ptr, v_ptr, f_ptr, reset_ptr, bt, n, row, column, H, HK, HV, HF, K, V)
        for j in range(end - begin):
            t = end - 1 - j
            bt = b * T + t
            before = tl.load(scratch + (t - begin) * ROWS * COLUMNS)
            q = tl.load(q_ptr + (bt * HQ + n // (H // HQ)) * K + row, mask=row < K, other=0).to(tl.float32)
            dy = tl.load(dy_ptr + (bt * H + n) * V + column, mask=column < V, other=0).to(tl.float32)
            after = b * T + tl.maximum(t - 1, 0)
            k_, v_, f_, fresh_ = _load_step(k_ptr, v_ptr, f_ptr, reset_ptr, after, n, row, column, H, HK, HV, HF, K, V)
            a = _activation(before, w, k, v, HALF, FAST, PRECISION)
            h = f * before + (1 - f) * a
            tl.store(dq_ptr + (bt * H + n) * K + row, tl.sum(h * dy[None, :], 1), mask=row < K)  # dq_t = H_t dy_t
            d += q[:, None] * dy[None, :]  # now D_t
            if CLIPPED:  # comparisons let NaN pass, which minimum and maximum would hide
                bounded = tl.where(d > clip, clip, tl.where(d < -clip, -clip, d))
                d = tl.where(f < 1, bounded, d)
            z = (1 - f) * d * (1 - a * a)
            tl.store(df_ptr + steps + bt * H + n, tl.sum(tl.sum(d * (before - a), 1), 0))
            tl.store(dk_ptr + (bt * H + n) * K + row, tl.sum(z * v[None, :], 1), mask=row < K)
            tl.store(dv_ptr + (steps + bt * H + n) * V + column, tl.sum(z * k[:, None], 0), mask=column < V)
            dw += dot(tl.trans(before), z, HALF, PRECISION)
            d = tl.where(fresh, 0.0, f * d + dot(z, tl.trans(w), HALF, PRECISION))  # D_{t-1} <- f_t D_t + Z_t Wᵀ
            k, v, f, fresh = k_, v_, f_, fresh_
        tl.debug_barrier()  # the next interval overwrites the scratch
    tl.store(dw_ptr + mine * V * V + matrix, dw, mask=square)
    tl.store(dfirst_ptr + head * K * V + tile, d, mask=inside)
