"""The matrix scans as three Triton programs. Equations and names are those of README.md.

Two are sequential: `forward`, and `adjoint`, which goes back through time for the whole gradients of the states. One
program of theirs is some rows of one head for all t, as the rows of a state never mix; chunks of a sequence are run at
once as if they were rows of the batch. The third, `input_gradients`, is of one step and one head: it depends on no
other step. Rows and columns beyond R and D are zeros, stay zeros, and are not stored.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import dot, dot_of_halves, rounded


@triton.jit
def _product(h, x, PRECISION: tl.constexpr):
    """h x in float32's precision; h is float32, x that or bfloat16."""
    if x.dtype == tl.bfloat16:
        product = dot_of_halves(h, x)
    else:
        product = dot(h, x, False, PRECISION)
    return product


@triton.jit
def _start(row, column, inside, AFFINE: tl.constexpr):
    """The state after a reset: zeros where something is added at every step, else the identity."""
    if AFFINE:
        start = tl.where(inside, 0.0, 0.0)
    else:
        start = tl.where(inside & (row[:, None] == column[None, :]), 1.0, 0.0)
    return start


@triton.jit
def _power_of_two(k):
    """2^k as a float32, for -126 <= k <= 127."""
    return ((k + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _largest_exponent(m):
    """k with the largest |entry| in [2^(k-1), 2^k), within [-126, 126]; 0 if all are zero or one is not finite.

    The bits of non-negative floats, as integers, have the order of the floats; NaN comes last.
    """
    bits = tl.max(tl.max(m.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1), 0)
    k = tl.minimum((bits >> 23) - 126, 126)
    return tl.where((bits == 0) | (bits >= 0x7F800000), 0, k)


@triton.jit(do_not_specialize=["T"])
def forward(
    x_ptr,  # [B, T, H, D, D]
    v_ptr,  # [B, T, H, R, D]; None: nothing is added
    reset_ptr,  # [B, T] int8
    first_ptr,  # [B, H, R, D]
    exponent_ptr,  # [B, H], that of the first state; None: nothing is rescaled
    h_ptr,  # [B, T, H, R, D]; None: only the last is stored
    last_ptr,  # [B, H, R, D]
    exponents_ptr,  # [B, T, H]; None where exponent_ptr is
    shift_ptr,  # [B, T, H]: X_t is x 2^shift; None: x
    T,
    H: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)  # 64 bits: offsets may exceed 2^31
    b, n = head // H, head % H
    row, column = part * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    tile, inside = row[:, None] * D + column[None, :], (row[:, None] < R) & (column[None, :] < D)
    inner = tl.arange(0, COLUMNS)
    matrix, square = inner[:, None] * D + column[None, :], (inner[:, None] < D) & (column[None, :] < D)
    h = tl.load(first_ptr + head * R * D + tile, mask=inside, other=0)
    start = _start(row, column, inside, v_ptr is not None)
    e = 0 if exponent_ptr is None else tl.load(exponent_ptr + head)

    at = b * T * H + n
    x = tl.load(x_ptr + at * D * D + matrix, mask=square, other=0)
    fresh = tl.load(reset_ptr + b * T) != 0
    v = 0 if v_ptr is None else tl.load(v_ptr + at * R * D + tile, mask=inside, other=0)
    for t in range(T):
        # The next step's inputs are on their way while this one computes; after the last step, its own again.
        after = at + tl.where(t < T - 1, H, 0)
        x_ = tl.load(x_ptr + after * D * D + matrix, mask=square, other=0)
        fresh_ = tl.load(reset_ptr + b * T + tl.minimum(t + 1, T - 1)) != 0
        h = _product(tl.where(fresh, start, h), x, PRECISION)
        if v_ptr is not None:
            h += v
            v = tl.load(v_ptr + after * R * D + tile, mask=inside, other=0)
        if exponent_ptr is not None:  # a power of two moves from m to e
            moved = _largest_exponent(h)
            h *= _power_of_two(-moved)
            e = tl.where(fresh, 0, e) + moved
            if shift_ptr is not None:
                e += tl.load(shift_ptr + at)
            tl.store(exponents_ptr + at, e)
        if h_ptr is not None:
            tl.store(h_ptr + at * R * D + tile, rounded(h, h_ptr.dtype.element_ty), mask=inside)
        x, fresh, at = x_, fresh_, after
    tl.store(last_ptr + head * R * D + tile, h, mask=inside)


@triton.jit(do_not_specialize=["T"])
def adjoint(
    x_ptr,
    reset_ptr,
    power_ptr,  # [B, T, H]: by which each step multiplied its product; None: 1
    dh_ptr,  # [B, T, H, R, D]
    dlast_ptr,  # [B, H, R, D]
    g_ptr,  # [B, T, H, R, D]: the whole gradient of each state, times its power; None: it is not stored
    dfirst_ptr,  # [B, H, R, D]
    T,
    H: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    head, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    b, n = head // H, head % H
    row, column = part * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    tile, inside = row[:, None] * D + column[None, :], (row[:, None] < R) & (column[None, :] < D)
    inner = tl.arange(0, COLUMNS)
    matrix, square = inner[:, None] * D + column[None, :], (inner[:, None] < D) & (column[None, :] < D)
    g = tl.load(dlast_ptr + head * R * D + tile, mask=inside, other=0)

    at = (b * T + T - 1) * H + n
    x = tl.load(x_ptr + at * D * D + matrix, mask=square, other=0)
    dh = tl.load(dh_ptr + at * R * D + tile, mask=inside, other=0)
    fresh = tl.load(reset_ptr + b * T + T - 1) != 0
    for i in range(T):
        g += dh.to(tl.float32)
        if power_ptr is not None:
            g *= tl.load(power_ptr + at)
        if g_ptr is not None:
            tl.store(g_ptr + at * R * D + tile, g, mask=inside)
        at -= tl.where(i < T - 1, H, 0)
        x_ = tl.load(x_ptr + at * D * D + matrix, mask=square, other=0)
        dh = tl.load(dh_ptr + at * R * D + tile, mask=inside, other=0)
        fresh_ = tl.load(reset_ptr + b * T + tl.maximum(T - 2 - i, 0)) != 0
        g = tl.where(fresh, 0.0, _product(g, tl.trans(x), PRECISION))  # nothing passes a reset
        x, fresh = x_, fresh_
    tl.store(dfirst_ptr + head * R * D + tile, g, mask=inside)


@triton.jit(do_not_specialize=["T"])
def input_gradients(
    first_ptr,
    reset_ptr,
    h_ptr,
    g_ptr,
    dx_ptr,  # [B, T, H, D, D]
    T,
    H: tl.constexpr,
    R: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    AFFINE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dX_t = H_{t-1}ᵀ B_t."""
    t, n, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    at = (b * T + t) * H + n
    fresh = tl.load(reset_ptr + b * T + t) != 0
    column, inner = tl.arange(0, COLUMNS), tl.arange(0, COLUMNS)
    dx = tl.zeros((COLUMNS, COLUMNS), tl.float32)
    for begin in range(0, R, ROWS):
        row = begin + tl.arange(0, ROWS)
        tile, inside = row[:, None] * D + column[None, :], (row[:, None] < R) & (column[None, :] < D)
        g = tl.load(g_ptr + at * R * D + tile, mask=inside, other=0)
        if t == 0:
            before = tl.load(first_ptr + (b * H + n) * R * D + tile, mask=inside, other=0)
        else:
            before = tl.load(h_ptr + (at - H) * R * D + tile, mask=inside, other=0).to(tl.float32)
        before = tl.where(fresh, _start(row, column, inside, AFFINE), before)
        dx += dot(tl.trans(before), g, False, PRECISION)
    matrix, square = inner[:, None] * D + column[None, :], (inner[:, None] < D) & (column[None, :] < D)
    tl.store(dx_ptr + at * D * D + matrix, rounded(dx, dx_ptr.dtype.element_ty), mask=square)
