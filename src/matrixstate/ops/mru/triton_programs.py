"""The MRU as two Triton programs, forward and backward. Equations and names are those of README.md.

One program is a chunk of a chain, the steps of one head in one row of the batch: all of it where there are chains
enough (`steps` >= T). What the chunks begin with, the caller passes. X and H never reach memory.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import dot, rounded
from matrixstate.ops.mru.triton_builders import build, element_gradient, place_elements
from matrixstate.ops.mru.triton_steps import (
    PADDED,
    RESET,
    advance,
    begin_step,
    load_step,
    normal_power,
    read_out,
)


@triton.jit(do_not_specialize=["T", "steps", "bound"])
def forward(
    elements_ptr,  # [B, T, H, ELEMENTS]
    v_ptr,  # [B, T, H, D, D], where HAS_V
    decay_ptr,  # [B, T, H], where HAS_DECAY
    down_ptr,  # [H, D, C]
    flags_ptr,  # [B, T] int8: RESET and PADDED
    first_ptr,  # [B, H, chunks, D, D]: the state before each chunk
    first_exponent_ptr,  # [B, H, chunks]; all exponents where RESCALE
    y_ptr,  # [B, T, H, D, C]
    last_ptr,  # [B, H, D, D]
    after_exponent_ptr,  # [B, H, chunks]: the exponent of the state after each chunk
    saved_ptr,  # [B, H, intervals, D, D]: the state before every INTERVAL-th step, where SAVE
    saved_exponent_ptr,  # [B, H, intervals]
    T,
    steps,  # of a chunk: a multiple of INTERVAL
    bound,
    H: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    ELEMENTS: tl.constexpr,
    ROWS: tl.constexpr,  # D padded
    COLUMNS: tl.constexpr,  # C padded
    INTERVAL: tl.constexpr,
    BUILDER: tl.constexpr,
    READOUT: tl.constexpr,
    RESCALE: tl.constexpr,
    HAS_V: tl.constexpr,
    HAS_DECAY: tl.constexpr,
    SAVE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    chunk, chunks, n = tl.program_id(1), tl.num_programs(1), tl.program_id(0) % H
    chain = tl.program_id(0).to(tl.int64)  # 64 bits: offsets may exceed 2^31
    row = chain // H * T
    i, j, c = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None, :], tl.arange(0, COLUMNS)[None, :]
    square, inside = i * D + j, (i < D) & (j < D)
    strip, wide = i * C + c, (i < D) & (c < C)
    down = tl.load(down_ptr + n * D * C + strip, mask=wide, other=0)
    m = tl.load(first_ptr + (chain * chunks + chunk) * D * D + square, mask=inside, other=0)
    e = tl.load(first_exponent_ptr + chain * chunks + chunk) if RESCALE else 0
    intervals, begin = tl.cdiv(T, INTERVAL), chunk * steps
    end = tl.minimum(begin + steps, T)

    inputs = elements_ptr, v_ptr, decay_ptr, flags_ptr
    elements, v, f, flags = load_step(*inputs, row + begin, n, i, j, H, D, ELEMENTS, BUILDER, HAS_V, HAS_DECAY)
    x = build(elements, i, j, D, BUILDER, PRECISION)
    for interval in range(begin // INTERVAL, tl.cdiv(end, INTERVAL)):
        if SAVE:
            place = chain * intervals + interval
            tl.store(saved_ptr + place * D * D + square, m, mask=inside)
            if RESCALE:
                tl.store(saved_exponent_ptr + place, e)
        for t in range(interval * INTERVAL, tl.minimum((interval + 1) * INTERVAL, end)):
            # The next step's X is built while this one's product is awaited; after the last step, its own again.
            after = row + tl.minimum(t + 1, end - 1)
            elements, v_, f_, flags_ = load_step(*inputs, after, n, i, j, H, D, ELEMENTS, BUILDER, HAS_V, HAS_DECAY)
            m = begin_step(m, flags, i, j, D, HAS_V)
            m, e = advance(m, e, x, v, f, flags, HAS_V, HAS_DECAY, RESCALE, PRECISION)
            scale, _ = read_out(m, e, bound, D, READOUT, RESCALE)
            y = scale * dot(m, down, False, PRECISION)
            to = y_ptr + ((row + t) * H + n) * D * C + strip
            tl.store(to, rounded(y, y_ptr.dtype.element_ty), mask=wide)
            x, v, f, flags = build(elements, i, j, D, BUILDER, PRECISION), v_, f_, flags_
    if RESCALE:
        tl.store(after_exponent_ptr + chain * chunks + chunk, e)
    if chunk == chunks - 1:
        tl.store(last_ptr + chain * D * D + square, m, mask=inside)


@triton.jit(do_not_specialize=["T", "steps", "bound"])
def backward(
    elements_ptr,  # inputs as in `forward`
    v_ptr,
    decay_ptr,
    down_ptr,
    flags_ptr,
    saved_ptr,
    saved_exponent_ptr,
    scratch_ptr,  # [B, H, chunks, INTERVAL, 2 ROWS² + 4]: of the interval at hand, the state before each step, X, and e
    dy_ptr,  # [B, T, H, D, C]
    dstate_ptr,  # [B, H, chunks, D, D]: the gradient of the state after each chunk, replaced by that of the one before
    delements_ptr,  # like elements
    dv_ptr,  # like v
    ddecay_ptr,  # like decay
    ddown_ptr,  # [B, H, chunks, D, C]
    T,
    steps,
    bound,
    H: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
    ELEMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INTERVAL: tl.constexpr,
    BUILDER: tl.constexpr,
    READOUT: tl.constexpr,
    RESCALE: tl.constexpr,
    HAS_V: tl.constexpr,
    HAS_DECAY: tl.constexpr,
    STATE_ONLY: tl.constexpr,  # no gradient but dstate is wanted
    PRECISION: tl.constexpr,
):
    chunk, chunks, n = tl.program_id(1), tl.num_programs(1), tl.program_id(0) % H
    chain = tl.program_id(0).to(tl.int64)
    row, mine = chain // H * T, chain * chunks + chunk
    i, j, c = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None, :], tl.arange(0, COLUMNS)[None, :]
    square, inside = i * D + j, (i < D) & (j < D)
    strip, wide = i * C + c, (i < D) & (c < C)
    down = tl.load(down_ptr + n * D * C + strip, mask=wide, other=0)
    SQUARE: tl.constexpr = ROWS * ROWS
    scratch_ptr += mine * INTERVAL * (2 * SQUARE + 4)
    block = i * ROWS + j
    carried = tl.load(dstate_ptr + mine * D * D + square, mask=inside, other=0)
    intervals, first = tl.cdiv(T, INTERVAL), chunk * steps
    last = tl.minimum(first + steps, T)

    inputs = elements_ptr, v_ptr, decay_ptr, flags_ptr
    for back in range(tl.cdiv(last - first, INTERVAL)):
        interval = tl.cdiv(last, INTERVAL) - 1 - back
        begin = interval * INTERVAL
        end = tl.minimum(begin + INTERVAL, last)
        # The states of this interval again, from the one that was saved.
        m = tl.load(saved_ptr + (chain * intervals + interval) * D * D + square, mask=inside, other=0)
        e = tl.load(saved_exponent_ptr + chain * intervals + interval) if RESCALE else 0
        elements, v, f, flags = load_step(*inputs, row + begin, n, i, j, H, D, ELEMENTS, BUILDER, HAS_V, HAS_DECAY)
        x = build(elements, i, j, D, BUILDER, PRECISION)
        for t in range(begin, end):
            after = row + tl.minimum(t + 1, end - 1)
            elements, v_, f_, flags_ = load_step(*inputs, after, n, i, j, H, D, ELEMENTS, BUILDER, HAS_V, HAS_DECAY)
            scratch = scratch_ptr + (t - begin) * (2 * SQUARE + 4)
            tl.store(scratch + block, m)
            tl.store(scratch + SQUARE + block, x)
            if RESCALE:
                tl.store(scratch + 2 * SQUARE, e.to(tl.float32, bitcast=True))
            m = begin_step(m, flags, i, j, D, HAS_V)
            m, e = advance(m, e, x, v, f, flags, HAS_V, HAS_DECAY, RESCALE, PRECISION)
            x, v, f, flags = build(elements, i, j, D, BUILDER, PRECISION), v_, f_, flags_
        tl.debug_barrier()  # a thread may load what another one stored

        ddown = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(end - begin):
            t = end - 1 - k
            bt = row + t
            place = bt * H + n
            dy = tl.load(dy_ptr + place * D * C + strip, mask=wide, other=0).to(tl.float32)
            scratch = scratch_ptr + (t - begin) * (2 * SQUARE + 4)
            before, x = tl.load(scratch + block), tl.load(scratch + SQUARE + block)
            e_before = tl.load(scratch + 2 * SQUARE).to(tl.int32, bitcast=True) if RESCALE else 0
            flags = tl.load(flags_ptr + bt)
            reset, padded = (flags & RESET) != 0, (flags & PADDED) != 0

            scale, kappa = read_out(m, e, bound, D, READOUT, RESCALE)
            dy = scale * dy
            g = dot(dy, tl.trans(down), False, PRECISION)  # P, which becomes dm
            if READOUT != "state":
                g += kappa * tl.sum(tl.sum(g * m, 1), 0) * m
            g += carried
            if RESCALE:
                g *= normal_power(tl.where(reset, 0, e_before) - e)
            decayed = x
            if HAS_DECAY:
                f = tl.load(decay_ptr + place)
                decayed = f * x
            carried = tl.where(padded, g, dot(g, tl.trans(decayed), False, PRECISION))
            carried = tl.where(reset, 0.0, carried)  # nothing passes to the step before
            if not STATE_ONLY:
                ddown += dot(tl.trans(m), dy, False, PRECISION)
                if HAS_V:
                    dv = tl.where(padded, 0.0, g)
                    tl.store(dv_ptr + place * D * D + square, rounded(dv, dv_ptr.dtype.element_ty), mask=inside)
                dx = dot(tl.trans(begin_step(before, flags, i, j, D, HAS_V)), g, False, PRECISION)
                if HAS_DECAY:
                    tl.store(ddecay_ptr + place, tl.where(padded, 0.0, tl.sum(tl.sum(dx * x, 1), 0)))
                    dx = f * dx
                elements, _, _, _ = load_step(*inputs, bt, n, i, j, H, D, ELEMENTS, BUILDER, False, False)
                dx = element_gradient(dx, x, elements, i, j, D, BUILDER, PRECISION)
                dx = rounded(tl.where(padded, 0.0, dx), delements_ptr.dtype.element_ty)
                to, given = place_elements(delements_ptr + place * ELEMENTS, i, j, D, BUILDER)
                tl.store(to, dx, mask=given)
            m, e = before, e_before
        if not STATE_ONLY:  # summed per interval first, as one long sum would round more; and here, to free registers
            before = tl.load(ddown_ptr + mine * D * C + strip, mask=wide & (back > 0), other=0)
            tl.store(ddown_ptr + mine * D * C + strip, before + ddown, mask=wide)
        tl.debug_barrier()  # the next interval overwrites the scratch, and adds to the sum
    tl.store(dstate_ptr + mine * D * D + square, carried, mask=inside)
