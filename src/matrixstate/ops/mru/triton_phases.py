"""What lets the chunks of a chain run side by side: their products, and the states and gradients between them.

A chunk of steps is an affine map of the state before it, m A + N, where N is the state after it from zeros. Without V,
N is zero; but a reset in the chunk cuts it off from what is before: then A is zero, and N the state after it. So
without V one matrix is enough, which is A or N. Equations are in README.md.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import dot
from matrixstate.ops.mru.triton_builders import build, identity
from matrixstate.ops.mru.triton_steps import advance, begin_step, load_step, power_of_two, rescale

CUT, IDLE = tl.constexpr(1), tl.constexpr(2)  # kinds of chunks: with a reset; of padding without resets


@triton.jit(do_not_specialize=["T", "steps"])
def products(
    elements_ptr,  # inputs as in `triton_programs.forward`
    v_ptr,
    decay_ptr,
    flags_ptr,
    product_ptr,  # [B, H, chunks, D, D]: A, or N where there is a reset and no V
    exponent_ptr,  # [B, H, chunks]: its exponent, where RESCALE
    added_ptr,  # [B, H, chunks, D, D]: N, where HAS_V
    T,
    steps,
    H: tl.constexpr,
    D: tl.constexpr,
    ELEMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    BUILDER: tl.constexpr,
    RESCALE: tl.constexpr,
    HAS_V: tl.constexpr,
    HAS_DECAY: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The maps of all chunks, one program each."""
    chunk, chunks, n = tl.program_id(1), tl.num_programs(1), tl.program_id(0) % H
    chain = tl.program_id(0).to(tl.int64)
    row, mine = chain // H * T, chain * chunks + chunk
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None, :]
    square, inside = i * D + j, (i < D) & (j < D)
    begin = chunk * steps
    end = tl.minimum(begin + steps, T)

    a, e, added = identity(i, j, D), 0, tl.zeros((ROWS, ROWS), tl.float32)
    inputs = elements_ptr, v_ptr, decay_ptr, flags_ptr
    elements, v, f, flags = load_step(*inputs, row + begin, n, i, j, H, D, ELEMENTS, BUILDER, HAS_V, HAS_DECAY)
    x = build(elements, i, j, D, BUILDER, PRECISION)
    for t in range(begin, end):
        after = row + tl.minimum(t + 1, end - 1)
        elements, v_, f_, flags_ = load_step(*inputs, after, n, i, j, H, D, ELEMENTS, BUILDER, HAS_V, HAS_DECAY)
        a = begin_step(a, flags, i, j, D, HAS_V)
        a, e = advance(a, e, x, v, f, flags, False, HAS_DECAY, RESCALE, PRECISION)
        if HAS_V:
            added = begin_step(added, flags, i, j, D, HAS_V)
            added, _ = advance(added, 0, x, v, f, flags, HAS_V, HAS_DECAY, False, PRECISION)
        x, v, f, flags = build(elements, i, j, D, BUILDER, PRECISION), v_, f_, flags_
    tl.store(product_ptr + mine * D * D + square, a, mask=inside)
    if RESCALE:
        tl.store(exponent_ptr + mine, e)
    if HAS_V:
        tl.store(added_ptr + mine * D * D + square, added, mask=inside)


@triton.jit(do_not_specialize=["chunks"])
def states(
    first_ptr,  # [B, H, D, D]
    first_exponent_ptr,  # [B, H], where RESCALE
    product_ptr,  # what `products` found
    exponent_ptr,
    added_ptr,
    kinds_ptr,  # [B, chunks] int8: CUT, IDLE or neither
    before_ptr,  # [B, H, chunks, D, D]: the state before each chunk
    before_exponent_ptr,  # [B, H, chunks], where RESCALE
    chunks,
    H: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    RESCALE: tl.constexpr,
    HAS_V: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The states before all chunks of a chain, one after another."""
    chain = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None, :]
    square, inside = i * D + j, (i < D) & (j < D)
    m = tl.load(first_ptr + chain * D * D + square, mask=inside, other=0)
    e = tl.load(first_exponent_ptr + chain) if RESCALE else 0
    for chunk in range(chunks):
        mine = chain * chunks + chunk
        a = tl.load(product_ptr + mine * D * D + square, mask=inside, other=0)
        kind = tl.load(kinds_ptr + chain // H * chunks + chunk)
        tl.store(before_ptr + mine * D * D + square, m, mask=inside)
        after = dot(m, a, False, PRECISION)
        if HAS_V:  # where the chunk is cut off, m may not be finite: it is left out, not multiplied by zero
            added = tl.load(added_ptr + mine * D * D + square, mask=inside, other=0)
            after = tl.where(kind == CUT, added, after + added)
        else:
            after = tl.where(kind == CUT, a, after)
        m = tl.where(kind == IDLE, m, after)
        if RESCALE:
            tl.store(before_exponent_ptr + mine, e)
            e = tl.where(kind == CUT, 0, e) + tl.where(kind == IDLE, 0, tl.load(exponent_ptr + mine))
            m, e = rescale(m, e)


@triton.jit(do_not_specialize=["chunks"])
def gradients(
    product_ptr,  # what `products` found
    exponent_ptr,
    kinds_ptr,
    before_exponent_ptr,  # [B, H, chunks]: of the states before the chunks, where RESCALE
    after_exponent_ptr,  # [B, H, chunks]: of the states after them
    dlast_ptr,  # [B, H, D, D]
    dstate_ptr,  # [B, H, chunks, D, D]: of the state before each chunk from its own steps; then of that after it
    chunks,
    H: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    RESCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The gradients of the states after all chunks of a chain, from the last to the first."""
    chain = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, ROWS)[:, None], tl.arange(0, ROWS)[None, :]
    square, inside = i * D + j, (i < D) & (j < D)
    d = tl.load(dlast_ptr + chain * D * D + square, mask=inside, other=0)
    e = tl.load(after_exponent_ptr + (chain + 1) * chunks - 1) if RESCALE else 0  # of the state whose gradient d is
    for back in range(chunks):
        mine = chain * chunks + chunks - 1 - back
        a = tl.load(product_ptr + mine * D * D + square, mask=inside, other=0)
        own = tl.load(dstate_ptr + mine * D * D + square, mask=inside, other=0)
        kind = tl.load(kinds_ptr + (chain // H + 1) * chunks - 1 - back)
        after = d
        if RESCALE:
            after *= power_of_two(tl.load(after_exponent_ptr + mine) - e)
        tl.debug_barrier()  # all of `own` is loaded
        tl.store(dstate_ptr + mine * D * D + square, after, mask=inside)
        through = tl.where(kind == IDLE, d, dot(d, tl.trans(a), False, PRECISION))
        if RESCALE:
            before = tl.load(before_exponent_ptr + mine)
            moved = before - e + tl.where(kind == IDLE, 0, tl.load(exponent_ptr + mine))
            through *= power_of_two(moved)
            e = before
        d = own + tl.where(kind == CUT, 0.0, through)
