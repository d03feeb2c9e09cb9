"""The cells as two Triton programs for heads so wide that their weights do not stay with a program.

One program is some rows of the batch and one head, for all t, as in triton_programs.py. At every step it reads all
weights of the head, tile by tile, from the second-level cache. What a product needs of all units (h, r h, gradients at
gates) lies in global memory; as threads read what others wrote, a barrier follows wherever it is written.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false, reportOptionalSubscript=false
# pyright: reportGeneralTypeIssues=false, reportOptionalOperand=false, reportPossiblyUnboundVariable=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import dot, tanh
from matrixstate.ops.cells.triton_programs import (
    GRU,
    GRU_AFTER,
    LSTM,
    RNN,
    flags,
    gradients,
    save,
    saved,
    sigmoid,
    state_before,
)


@triton.jit
def _product(
    total,
    rows_ptr,  # [ROWS, 1], where each row begins
    present,  # [ROWS, 1], whether it is read
    w_ptr,  # of the gate
    j,  # [UNITS], columns of the product
    terms,  # D, as a variable, or else compilers unroll the loop over it
    D: tl.constexpr,
    K_STRIDE: tl.constexpr,  # of w from one term of the sum to the next
    J_STRIDE: tl.constexpr,  # from one column of the product to the next
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    HALF: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`total` [ROWS, UNITS] plus the rows times the weights of a gate. STAGES tiles are on their way at once."""
    for begin in tl.range(0, terms, DEPTH, num_stages=STAGES):
        k = begin + tl.arange(0, DEPTH)
        left = tl.load(rows_ptr + k[None, :], mask=present & (k < D)[None, :], other=0)
        at, inside = k[:, None] * K_STRIDE + j[None, :] * J_STRIDE, (k < D)[:, None] & (j < D)[None, :]
        total += dot(left, tl.load(w_ptr + at, mask=inside, other=0).to(tl.float32), HALF, PRECISION)
    return total


@triton.jit
def _load(x_ptr, at, inside):
    return tl.load(x_ptr + at, mask=inside, other=0).to(tl.float32)


@triton.jit(do_not_specialize=["B", "T", "terms"])
def forward_streamed(
    x0_ptr,  # these as those of triton_programs.forward
    x1_ptr,
    x2_ptr,
    x3_ptr,
    w_ptr,
    bias_ptr,
    h_ptr,
    c_ptr,  # c, at first before the first step; overwritten
    mask_ptr,
    reset_ptr,
    y_ptr,
    scratch_ptr,  # [4, B, H, D]: h before and after a step by turns, the first step's in the first; f and r h of GRU
    gates_ptr,
    cells_ptr,
    B,
    T,
    terms,  # D
    H: tl.constexpr,
    D: tl.constexpr,
    STRIDE: tl.constexpr,
    KIND: tl.constexpr,
    GATES: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    SAVE: tl.constexpr,
    HALF: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    n = tl.program_id(1)
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    rows, mine = row < B, (row * H + n) * D  # mine: where rows begin in arrays [B, H, D]
    states, all_steps = B.to(tl.int64) * H * D, B.to(tl.int64) * T * H * D
    w0_ptr = w_ptr + n * D * GATES * D  # the weights of the gates lie side by side
    w1_ptr, w2_ptr, w3_ptr = w0_ptr + D, w0_ptr + 2 * D, w0_ptr + 3 * D
    none = tl.zeros((ROWS, UNITS), tl.float32)
    for t in range(T):
        bt = row * T + t
        real, fresh = flags(mask_ptr, reset_ptr, bt, rows)
        present = rows & ~fresh  # rows with a state before the step
        before_ptr, after_ptr = scratch_ptr + t % 2 * states, scratch_ptr + (t + 1) % 2 * states
        f_ptr, rh_ptr = scratch_ptr + 2 * states, scratch_ptr + 3 * states
        before, rh = before_ptr + mine, rh_ptr + mine
        if KIND == GRU:  # r of all units before the candidate of any
            for begin in range(0, D, UNITS):
                j = begin + tl.arange(0, UNITS)
                inside, at = rows & (j < D)[None, :], mine + j[None, :]
                x_at = bt * STRIDE + n * D + j[None, :]
                s0, s1 = _load(x0_ptr, x_at, inside), _load(x1_ptr, x_at, inside)
                s0 = _product(s0, before, present, w0_ptr, j, terms, D, GATES * D, 1, DEPTH, STAGES, HALF, PRECISION)
                s1 = _product(s1, before, present, w1_ptr, j, terms, D, GATES * D, 1, DEPTH, STAGES, HALF, PRECISION)
                r, h = sigmoid(s1, FAST), tl.load(before_ptr + at, mask=inside & present, other=0)
                tl.store(f_ptr + at, sigmoid(s0, FAST), mask=inside)
                tl.store(rh_ptr + at, r * h, mask=inside)
                if SAVE:
                    here = (bt * H + n) * D + j[None, :]
                    tl.store(gates_ptr + all_steps + here, tl.where(real, r, 0.0), mask=inside)
            tl.debug_barrier()
        for begin in range(0, D, UNITS):
            j = begin + tl.arange(0, UNITS)
            inside, at = rows & (j < D)[None, :], mine + j[None, :]
            here, x_at = (bt * H + n) * D + j[None, :], bt * STRIDE + n * D + j[None, :]
            h = tl.load(before_ptr + at, mask=inside & present, other=0)
            g0, g1, g2, g3, a = none, none, none, none, none
            if KIND == GRU:
                g0 = tl.load(f_ptr + at, mask=inside, other=0)
                s2 = _load(x2_ptr, x_at, inside)
                s2 = _product(s2, rh, rows, w2_ptr, j, terms, D, GATES * D, 1, DEPTH, STAGES, HALF, PRECISION)
                g2 = tanh(s2, FAST)
            else:
                s0 = _load(x0_ptr, x_at, inside)
                s0 = _product(s0, before, present, w0_ptr, j, terms, D, GATES * D, 1, DEPTH, STAGES, HALF, PRECISION)
                g0 = tanh(s0, FAST) if KIND == RNN else sigmoid(s0, FAST)
            if KIND >= GRU_AFTER:  # or LSTM
                s1 = _load(x1_ptr, x_at, inside)
                s1 = _product(s1, before, present, w1_ptr, j, terms, D, GATES * D, 1, DEPTH, STAGES, HALF, PRECISION)
                g1, x2 = sigmoid(s1, FAST), _load(x2_ptr, x_at, inside)
                s2 = none if KIND == GRU_AFTER else x2
                s2 = _product(s2, before, present, w2_ptr, j, terms, D, GATES * D, 1, DEPTH, STAGES, HALF, PRECISION)
                if KIND == GRU_AFTER:
                    a = s2 + tl.load(bias_ptr + n * D + j, mask=j < D, other=0)[None, :]
                    g2 = tanh(g1 * a + x2, FAST)
                else:
                    g2, s3 = sigmoid(s2, FAST), _load(x3_ptr, x_at, inside)
                    s3 = _product(
                        s3, before, present, w3_ptr, j, terms, D, GATES * D, 1, DEPTH, STAGES, HALF, PRECISION
                    )
                    g3 = tanh(s3, FAST)
            if KIND == RNN:
                h_new = g0
            elif KIND == LSTM:
                c = tl.load(c_ptr + at, mask=inside & present, other=0)
                c_new = g1 * c + g0 * g3
                a = tanh(c_new, FAST)
                h_new = g2 * a
                tl.store(c_ptr + at, tl.where(real, c_new, c), mask=inside)
                if SAVE:
                    tl.store(cells_ptr + here, c, mask=inside)
            else:
                h_new = g0 * h + (1 - g0) * g2
            h = tl.where(real, h_new, h)
            tl.store(after_ptr + at, h, mask=inside)
            tl.store(y_ptr + here, h, mask=inside)
            if SAVE:
                if KIND == GRU:
                    tl.store(gates_ptr + here, tl.where(real, g0, 0.0), mask=inside)
                    tl.store(gates_ptr + 2 * all_steps + here, tl.where(real, g2, 0.0), mask=inside)
                else:
                    save(gates_ptr + here, all_steps, inside, real, g0, g1, g2, g3, a, KIND)
        tl.debug_barrier()


@triton.jit(do_not_specialize=["B", "T", "terms", "clip"])
def backward_streamed(
    w_ptr,  # these as those of triton_programs.backward
    h_ptr,
    mask_ptr,
    reset_ptr,
    y_ptr,
    gates_ptr,
    cells_ptr,
    dy_ptr,
    dx0_ptr,
    dx1_ptr,
    dx2_ptr,
    dx3_ptr,
    dh_ptr,  # at first the gradient of the last state, then that of the state at hand; so also dc
    dc_ptr,
    inner_ptr,  # [B, H, D], GRU_AFTER only: the gradient of h W + bias
    B,
    T,
    terms,
    clip,
    H: tl.constexpr,
    D: tl.constexpr,
    KIND: tl.constexpr,
    GATES: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    CLIPPED: tl.constexpr,
    HALF: tl.constexpr,
    PRECISION: tl.constexpr,
):
    n = tl.program_id(1)
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    rows, mine = row < B, (row * H + n) * D
    all_steps = B.to(tl.int64) * T * H * D
    w0_ptr = w_ptr + n * D * GATES * D  # the weights of the gates lie side by side
    w1_ptr, w2_ptr, w3_ptr = w0_ptr + D, w0_ptr + 2 * D, w0_ptr + 3 * D
    for i in range(T):
        bt = row * T + T - 1 - i
        real, fresh = flags(mask_ptr, reset_ptr, bt, rows)
        step = (bt * H + n) * D  # where rows begin in arrays [B, T, H, D]
        for begin in range(0, D, UNITS):
            j = begin + tl.arange(0, UNITS)
            inside, at, here = rows & (j < D)[None, :], mine + j[None, :], step + j[None, :]
            d = tl.load(dh_ptr + at, mask=inside, other=0) + _load(dy_ptr, here, inside)
            g0, g1, g2, g3, a = saved(gates_ptr + here, all_steps, inside, KIND)
            h, c, dc = d, d, d
            if KIND == LSTM:
                c, dc = tl.load(cells_ptr + here, mask=inside, other=0), tl.load(dc_ptr + at, mask=inside, other=0)
            elif KIND != RNN:
                h = state_before(h_ptr, y_ptr, at, here, bt, row * T, fresh, inside, H * D)
            p0, p1, p2, p3, d, dc = gradients(d, dc, h, c, g0, g1, g2, g3, a, clip, real, fresh, KIND, CLIPPED)
            tl.store(dh_ptr + at, d, mask=inside)
            tl.store(dx0_ptr + here, p0, mask=inside)
            if KIND != RNN:
                tl.store(dx2_ptr + here, p2, mask=inside)
            if KIND >= GRU_AFTER:  # or LSTM
                tl.store(dx1_ptr + here, p1, mask=inside)
            if KIND == GRU_AFTER:
                tl.store(inner_ptr + at, p2 * g1, mask=inside)
            if KIND == LSTM:
                tl.store(dx3_ptr + here, p3, mask=inside)
                tl.store(dc_ptr + at, dc, mask=inside)
        tl.debug_barrier()
        if KIND == GRU:  # the gradient of r h of all units before that of r
            for begin in range(0, D, UNITS):
                j = begin + tl.arange(0, UNITS)
                inside, at, here = rows & (j < D)[None, :], mine + j[None, :], step + j[None, :]
                q = tl.zeros((ROWS, UNITS), tl.float32)
                q = _product(q, dx2_ptr + step, rows, w2_ptr, j, terms, D, 1, GATES * D, DEPTH, STAGES, HALF, PRECISION)
                r = tl.load(gates_ptr + all_steps + here, mask=inside, other=0)
                h = state_before(h_ptr, y_ptr, at, here, bt, row * T, fresh, inside, H * D)
                tl.store(dx1_ptr + here, q * h * r * (1 - r), mask=inside)
                tl.store(dh_ptr + at, tl.load(dh_ptr + at, mask=inside, other=0) + r * q, mask=inside)
            tl.debug_barrier()
        for begin in range(0, D, UNITS):
            j = begin + tl.arange(0, UNITS)
            inside, at = rows & (j < D)[None, :], mine + j[None, :]
            d = tl.load(dh_ptr + at, mask=inside, other=0)
            d = _product(d, dx0_ptr + step, rows, w0_ptr, j, terms, D, 1, GATES * D, DEPTH, STAGES, HALF, PRECISION)
            if KIND != RNN:
                d = _product(d, dx1_ptr + step, rows, w1_ptr, j, terms, D, 1, GATES * D, DEPTH, STAGES, HALF, PRECISION)
            if KIND == GRU_AFTER:
                d = _product(
                    d, inner_ptr + mine, rows, w2_ptr, j, terms, D, 1, GATES * D, DEPTH, STAGES, HALF, PRECISION
                )
            if KIND == LSTM:
                d = _product(d, dx2_ptr + step, rows, w2_ptr, j, terms, D, 1, GATES * D, DEPTH, STAGES, HALF, PRECISION)
                d = _product(d, dx3_ptr + step, rows, w3_ptr, j, terms, D, 1, GATES * D, DEPTH, STAGES, HALF, PRECISION)
            tl.store(dh_ptr + at, tl.where(fresh, 0.0, d), mask=inside)
        tl.debug_barrier()
