"""The cells as two Triton programs, forward and backward. Equations and names are those of README.md.

One program is some rows of the batch and one head, for all t. It loads the weights of the head once, and its state
stays in registers. Rows beyond B and units beyond d are zeros in all that is loaded, and are not stored.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false, reportOptionalSubscript=false
# pyright: reportGeneralTypeIssues=false, reportOptionalOperand=false, reportPossiblyUnboundVariable=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import dot, tanh

# In the order of kernel_triton.KINDS. Gates are in the order f, r, z for GRUs and i, f, o, z for the LSTM.
RNN, GRU, GRU_AFTER, LSTM = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


@triton.jit
def sigmoid(x, FAST: tl.constexpr):
    return 0.5 * tanh(0.5 * x, FAST) + 0.5 if FAST else 1 / (1 + tl.exp(-x))


@triton.jit
def clamped(d, clip, real, CLIPPED: tl.constexpr):
    """A gradient bounded at real steps. Comparisons let NaN pass, which minimum and maximum would hide."""
    if CLIPPED:
        d = tl.where(real & (d > clip), clip, tl.where(real & (d < -clip), -clip, d))
    return d


@triton.jit
def flags(mask_ptr, reset_ptr, bt, rows):
    """Of every row whether the step is real, and whether it begins a document."""
    real, fresh = rows, bt < 0  # none begins
    if mask_ptr is not None:
        real = tl.load(mask_ptr + bt, mask=rows, other=0) != 0
    if reset_ptr is not None:
        fresh = tl.load(reset_ptr + bt, mask=rows, other=0) != 0
    return real, fresh


@triton.jit
def _load(a_ptr, b_ptr, c_ptr, d_ptr, at, inside):
    """The same place of up to four arrays in float32; the first again for those that are None."""
    a = tl.load(a_ptr + at, mask=inside, other=0).to(tl.float32)
    b, c, d = a, a, a
    if b_ptr is not None:
        b = tl.load(b_ptr + at, mask=inside, other=0).to(tl.float32)
    if c_ptr is not None:
        c = tl.load(c_ptr + at, mask=inside, other=0).to(tl.float32)
    if d_ptr is not None:
        d = tl.load(d_ptr + at, mask=inside, other=0).to(tl.float32)
    return a, b, c, d


@triton.jit
def _weights(w_ptr, at, inside, D: tl.constexpr, GATES: tl.constexpr):
    """Those of every gate, which lie side by side; the first again for gates that there are not."""
    a = tl.load(w_ptr + at, mask=inside, other=0).to(tl.float32)
    b, c, d = a, a, a
    if GATES > 1:
        b = tl.load(w_ptr + D + at, mask=inside, other=0).to(tl.float32)
        c = tl.load(w_ptr + 2 * D + at, mask=inside, other=0).to(tl.float32)
    if GATES > 3:
        d = tl.load(w_ptr + 3 * D + at, mask=inside, other=0).to(tl.float32)
    return a, b, c, d


@triton.jit
def save(gates_ptr, all_steps, inside, real, g0, g1, g2, g3, a, KIND: tl.constexpr):
    """Stores the gates of a step for the backward pass, and what else it needs."""
    tl.store(gates_ptr, tl.where(real, g0, 0.0), mask=inside)
    if KIND != RNN:
        tl.store(gates_ptr + all_steps, tl.where(real, g1, 0.0), mask=inside)
        tl.store(gates_ptr + 2 * all_steps, tl.where(real, g2, 0.0), mask=inside)
    if KIND == GRU_AFTER:
        tl.store(gates_ptr + 3 * all_steps, tl.where(real, a, 0.0), mask=inside)
    if KIND == LSTM:
        tl.store(gates_ptr + 3 * all_steps, tl.where(real, g3, 0.0), mask=inside)
        tl.store(gates_ptr + 4 * all_steps, tl.where(real, a, 0.0), mask=inside)


@triton.jit
def saved(gates_ptr, all_steps, inside, KIND: tl.constexpr):
    """g0, g1, g2, g3 and a as stored by `save`; g0 again for those that are not there."""
    g0 = tl.load(gates_ptr, mask=inside, other=0)
    g1, g2, g3, a = g0, g0, g0, g0
    if KIND != RNN:
        g1 = tl.load(gates_ptr + all_steps, mask=inside, other=0)
        g2 = tl.load(gates_ptr + 2 * all_steps, mask=inside, other=0)
    if KIND == GRU_AFTER:
        a = tl.load(gates_ptr + 3 * all_steps, mask=inside, other=0)
    if KIND == LSTM:
        g3 = tl.load(gates_ptr + 3 * all_steps, mask=inside, other=0)
        a = tl.load(gates_ptr + 4 * all_steps, mask=inside, other=0)
    return g0, g1, g2, g3, a


@triton.jit
def gradients(d, dc, h, c, g0, g1, g2, g3, a, clip, real, fresh, KIND: tl.constexpr, CLIPPED: tl.constexpr):
    """The gradients at the arguments of the gates (GRU: not of r), and those before the step, without the products'.

    d, dc: the gradients after the step; h and c before it. What is not there in a cell is not used and not defined.
    """
    passed, passed_c, p1, p2, p3 = d, dc, d, d, d  # passed: through a padded step
    d = clamped(d, clip, real, CLIPPED)
    if KIND == RNN:
        p0, kept = d * (1 - g0 * g0), tl.zeros_like(d)
    elif KIND == LSTM:
        dc = clamped(dc, clip, real, CLIPPED) + d * g2 * (1 - a * a)
        p0, p1 = dc * g3 * g0 * (1 - g0), dc * c * g1 * (1 - g1)
        p2, p3 = d * a * g2 * (1 - g2), dc * g0 * (1 - g3 * g3)
        dc, kept = tl.where(fresh, 0.0, tl.where(real, g1 * dc, passed_c)), tl.zeros_like(d)
    else:
        p0, p2, kept = d * (h - g2) * g0 * (1 - g0), d * (1 - g0) * (1 - g2 * g2), g0 * d
        p1 = p2 * a * g1 * (1 - g1)  # of GRU_AFTER
    p0, p1 = tl.where(real, p0, 0.0), tl.where(real, p1, 0.0)
    p2, p3 = tl.where(real, p2, 0.0), tl.where(real, p3, 0.0)
    return p0, p1, p2, p3, tl.where(real, kept, passed), dc


@triton.jit
def state_before(h_ptr, y_ptr, at, here, bt, first, fresh, inside, STEP: tl.constexpr):
    """h before step bt: that of y one step of STEP numbers ago, or the first state."""
    h = tl.load(h_ptr + at, mask=inside & (bt == first), other=0)
    h += tl.load(y_ptr + here - STEP, mask=inside & (bt > first), other=0)
    return tl.where(fresh, 0.0, h)


@triton.jit(do_not_specialize=["B", "T"])
def forward(
    x0_ptr,  # [B, T, H, D], steps STRIDE apart: the input of the first gate; None, here and below, for gates not there
    x1_ptr,
    x2_ptr,
    x3_ptr,
    w_ptr,  # [H, D, GATES, D]
    bias_ptr,  # [H, D], GRU_AFTER only
    h_ptr,  # [B, H, D], as c: LSTM only, here and below
    c_ptr,
    mask_ptr,  # [B, T] int8 or None, as reset
    reset_ptr,
    y_ptr,  # [B, T, H, D]
    last_h_ptr,  # [B, H, D], as last_c
    last_c_ptr,
    gates_ptr,  # [SAVED, B, T, H, D], zeros at padded steps
    cells_ptr,  # [B, T, H, D], c before every step
    B,
    T,
    H: tl.constexpr,
    D: tl.constexpr,
    STRIDE: tl.constexpr,
    KIND: tl.constexpr,
    GATES: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    SAVE: tl.constexpr,
    HALF: tl.constexpr,
    FAST: tl.constexpr,
    PRECISION: tl.constexpr,
):
    n = tl.program_id(1)
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]  # 64 bits: offsets may exceed 2^31
    rows, unit = row < B, tl.arange(0, UNITS)
    inside = rows & (unit < D)[None, :]
    at = (row * H + n) * D + unit[None, :]  # in arrays [B, H, D]
    square = (unit < D)[:, None] & (unit < D)[None, :]
    from_before = n * D * GATES * D + unit[:, None] * GATES * D + unit[None, :]
    w0, w1, w2, w3 = _weights(w_ptr, from_before, square, D, GATES)
    h = tl.load(h_ptr + at, mask=inside, other=0)
    c, bias = h, h
    g0, g1, g2, g3, a = h, h, h, h, h  # those that a kind does not have are not used
    if KIND == LSTM:
        c = tl.load(c_ptr + at, mask=inside, other=0)
    if KIND == GRU_AFTER:
        bias = tl.load(bias_ptr + n * D + unit, mask=unit < D, other=0)[None, :]
    all_steps = B.to(tl.int64) * T * H * D  # from one gate to the next
    of_head = (n * D + unit)[None, :]

    bt = row * T
    x0, x1, x2, x3 = _load(x0_ptr, x1_ptr, x2_ptr, x3_ptr, bt * STRIDE + of_head, inside)
    real, fresh = flags(mask_ptr, reset_ptr, bt, rows)
    for t in range(T):
        # The next step's inputs are on their way while this one computes; after the last step, its own again.
        after = row * T + tl.minimum(t + 1, T - 1)
        x0_, x1_, x2_, x3_ = _load(x0_ptr, x1_ptr, x2_ptr, x3_ptr, after * STRIDE + of_head, inside)
        real_, fresh_ = flags(mask_ptr, reset_ptr, after, rows)
        here = (row * T + t) * (H * D) + of_head
        h = tl.where(fresh, 0.0, h)
        if KIND == LSTM:
            c = tl.where(fresh, 0.0, c)
            if SAVE:
                tl.store(cells_ptr + here, c, mask=inside)
            g0 = sigmoid(dot(h, w0, HALF, PRECISION) + x0, FAST)
            g1 = sigmoid(dot(h, w1, HALF, PRECISION) + x1, FAST)
            g2 = sigmoid(dot(h, w2, HALF, PRECISION) + x2, FAST)
            g3 = tanh(dot(h, w3, HALF, PRECISION) + x3, FAST)
            c_new = g1 * c + g0 * g3
            a = tanh(c_new, FAST)
            c, h_new = tl.where(real, c_new, c), g2 * a
        elif KIND == RNN:
            g0 = tanh(dot(h, w0, HALF, PRECISION) + x0, FAST)
            h_new = g0
        else:
            g0 = sigmoid(dot(h, w0, HALF, PRECISION) + x0, FAST)
            g1 = sigmoid(dot(h, w1, HALF, PRECISION) + x1, FAST)
            if KIND == GRU:
                g2 = tanh(dot(g1 * h, w2, HALF, PRECISION) + x2, FAST)
            else:
                a = dot(h, w2, HALF, PRECISION) + bias
                g2 = tanh(g1 * a + x2, FAST)
            h_new = g0 * h + (1 - g0) * g2
        h = tl.where(real, h_new, h)
        tl.store(y_ptr + here, h, mask=inside)
        if SAVE:
            save(gates_ptr + here, all_steps, inside, real, g0, g1, g2, g3, a, KIND)
        x0, x1, x2, x3, real, fresh = x0_, x1_, x2_, x3_, real_, fresh_
    tl.store(last_h_ptr + at, h, mask=inside)
    if KIND == LSTM:
        tl.store(last_c_ptr + at, c, mask=inside)


@triton.jit(do_not_specialize=["B", "T", "clip"])
def backward(
    w_ptr,
    h_ptr,
    mask_ptr,
    reset_ptr,
    y_ptr,
    gates_ptr,
    cells_ptr,
    dy_ptr,  # [B, T, H, D]
    dlast_h_ptr,  # [B, H, D], as dlast_c
    dlast_c_ptr,
    dx0_ptr,  # [B, T, H, D], as those of the other gates
    dx1_ptr,
    dx2_ptr,
    dx3_ptr,
    dh_ptr,  # [B, H, D], as dc
    dc_ptr,
    B,
    T,
    clip,
    H: tl.constexpr,
    D: tl.constexpr,
    KIND: tl.constexpr,
    GATES: tl.constexpr,
    ROWS: tl.constexpr,
    UNITS: tl.constexpr,
    CLIPPED: tl.constexpr,
    HALF: tl.constexpr,
    PRECISION: tl.constexpr,
):
    n = tl.program_id(1)
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    rows, unit = row < B, tl.arange(0, UNITS)
    inside = rows & (unit < D)[None, :]
    at = (row * H + n) * D + unit[None, :]
    square = (unit < D)[:, None] & (unit < D)[None, :]
    from_after = n * D * GATES * D + unit[None, :] * GATES * D + unit[:, None]  # Wᵀ
    w0, w1, w2, w3 = _weights(w_ptr, from_after, square, D, GATES)
    all_steps = B.to(tl.int64) * T * H * D
    of_head = (n * D + unit)[None, :]

    d = tl.load(dlast_h_ptr + at, mask=inside, other=0)
    dc = d
    if KIND == LSTM:
        dc = tl.load(dlast_c_ptr + at, mask=inside, other=0)
    for i in range(T):
        t = T - 1 - i
        bt = row * T + t
        here = bt * (H * D) + of_head
        real, fresh = flags(mask_ptr, reset_ptr, bt, rows)
        d += tl.load(dy_ptr + here, mask=inside, other=0).to(tl.float32)
        g0, g1, g2, g3, a = saved(gates_ptr + here, all_steps, inside, KIND)
        h, c = d, d
        if KIND == LSTM:
            c = tl.load(cells_ptr + here, mask=inside, other=0)
        elif KIND != RNN:
            h = state_before(h_ptr, y_ptr, at, here, bt, row * T, fresh, inside, H * D)
        p0, p1, p2, p3, d, dc = gradients(d, dc, h, c, g0, g1, g2, g3, a, clip, real, fresh, KIND, CLIPPED)
        if KIND == GRU:
            q = dot(p2, w2, HALF, PRECISION)  # the gradient of r h
            p1 = q * h * g1 * (1 - g1)
            d += g1 * q
        elif KIND == GRU_AFTER:
            d += dot(p2 * g1, w2, HALF, PRECISION)
        d += dot(p0, w0, HALF, PRECISION)
        tl.store(dx0_ptr + here, p0, mask=inside)
        if KIND != RNN:
            d += dot(p1, w1, HALF, PRECISION)
            tl.store(dx1_ptr + here, p1, mask=inside)
            tl.store(dx2_ptr + here, p2, mask=inside)
        if KIND == LSTM:
            d += dot(p2, w2, HALF, PRECISION) + dot(p3, w3, HALF, PRECISION)
            tl.store(dx3_ptr + here, p3, mask=inside)
        d = tl.where(fresh, 0.0, d)
    tl.store(dh_ptr + at, d, mask=inside)
    if KIND == LSTM:
        tl.store(dc_ptr + at, dc, mask=inside)
