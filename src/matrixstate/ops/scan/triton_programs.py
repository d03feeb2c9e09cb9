"""The linear recurrence as two Triton programs, forward and backward. Equations and names are those of README.md.

One program is a block of the elements of one row of the batch, for all t. STEPS steps are unrolled: all that they read
is loaded before anything is computed, so that a step waits for the one before it, and not for memory.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import rounded


@triton.jit
def _load_steps(
    x_ptr, b, begin, place, at, T, WIDTH: tl.constexpr, N: tl.constexpr, OTHER: tl.constexpr, STEPS: tl.constexpr
):
    """The numbers x[b, t, place] of elements `at` in STEPS steps from `begin`, float32; OTHER where there is none."""
    steps = ()
    for i in tl.static_range(STEPS):
        now = at < tl.where(begin + i < T, N, 0)
        steps += (tl.load(x_ptr + (b * T + begin + i) * WIDTH + place, mask=now, other=OTHER).to(tl.float32),)
    return steps


@triton.jit
def _load_decays(
    a_ptr,
    b,
    begin,
    group,
    at,
    T,
    G: tl.constexpr,
    N: tl.constexpr,
    CONSTANT: tl.constexpr,
    IS_LOG: tl.constexpr,
    STEPS: tl.constexpr,
):
    """The decays of STEPS steps; beyond the last step it is 1, which leaves a state as it is."""
    other: tl.constexpr = 0.0 if IS_LOG else 1.0  # pyright: ignore[reportAssignmentType]
    decays = ()
    if CONSTANT:
        a = tl.load(a_ptr + group, mask=at < N, other=other)
        a = tl.exp(a) if IS_LOG else a
        for i in tl.static_range(STEPS):
            decays += (tl.where(begin + i < T, a, 1.0),)
    else:
        given = _load_steps(a_ptr, b, begin, group, at, T, G, N, other, STEPS)
        for i in tl.static_range(STEPS):
            decays += (tl.exp(given[i]) if IS_LOG else given[i],)
    return decays


@triton.jit
def _begins(reset_ptr, b, begin, T, STEPS: tl.constexpr):
    """Of STEPS steps whether each begins a document."""
    begins = ()
    for i in tl.static_range(STEPS):
        begins += (tl.load(reset_ptr + b * T + begin + i, mask=begin + i < T, other=0) != 0,)
    return begins


@triton.jit(do_not_specialize=["T"])
def forward(
    x_ptr,  # [B, T, N]
    a_ptr,  # [B, T, G], or [G] if CONSTANT: the decays of N/G elements each, or their logarithms
    reset_ptr,  # [B, T] int8
    first_ptr,  # [B, N]
    h_ptr,  # [B, T, N]
    last_ptr,  # [B, N]
    saved_ptr,  # [B, ceil(T / STEPS), N]: the state before every STEPS-th step
    T,
    N: tl.constexpr,
    G: tl.constexpr,
    ELEMENTS: tl.constexpr,
    STEPS: tl.constexpr,
    CONSTANT: tl.constexpr,
    IS_LOG: tl.constexpr,
    SAVE: tl.constexpr,
):
    b, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * ELEMENTS + tl.arange(0, ELEMENTS)  # 64 bits for offsets
    inside, group = at < N, at // (N // G)
    h = tl.load(first_ptr + b * N + at, mask=inside, other=0)
    for i in range(tl.cdiv(T, STEPS)):
        begin = i * STEPS
        if SAVE:
            tl.store(saved_ptr + (b * tl.cdiv(T, STEPS) + i) * N + at, h, mask=inside)
        x = _load_steps(x_ptr, b, begin, at, at, T, N, N, 0.0, STEPS)
        a = _load_decays(a_ptr, b, begin, group, at, T, G, N, CONSTANT, IS_LOG, STEPS)
        fresh = _begins(reset_ptr, b, begin, T, STEPS)
        for j in tl.static_range(STEPS):
            h = a[j] * tl.where(fresh[j], 0.0, h) + x[j]
            to = h_ptr + (b * T + begin + j) * N + at
            tl.store(to, rounded(h, h_ptr.dtype.element_ty), mask=at < tl.where(begin + j < T, N, 0))
    tl.store(last_ptr + b * N + at, h, mask=inside)


@triton.jit(do_not_specialize=["T"])
def backward(
    x_ptr,
    a_ptr,
    reset_ptr,
    saved_ptr,
    dh_ptr,  # [B, T, N]
    dlast_ptr,  # [B, N]
    dx_ptr,  # [B, T, N]
    da_ptr,  # [B, T, N], or [B, N] if CONSTANT: what every element adds to the gradient of its decay
    dfirst_ptr,  # [B, N]
    T,
    N: tl.constexpr,
    G: tl.constexpr,
    ELEMENTS: tl.constexpr,
    STEPS: tl.constexpr,
    CONSTANT: tl.constexpr,
    IS_LOG: tl.constexpr,
):
    b, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * ELEMENTS + tl.arange(0, ELEMENTS)
    inside, group = at < N, at // (N // G)
    g = tl.load(dlast_ptr + b * N + at, mask=inside, other=0)  # the gradient of the state after step t
    total = tl.zeros((ELEMENTS,), tl.float32)
    chunks = tl.cdiv(T, STEPS)
    for i in range(chunks):
        begin = (chunks - 1 - i) * STEPS
        x = _load_steps(x_ptr, b, begin, at, at, T, N, N, 0.0, STEPS)
        dh = _load_steps(dh_ptr, b, begin, at, at, T, N, N, 0.0, STEPS)
        a = _load_decays(a_ptr, b, begin, group, at, T, G, N, CONSTANT, IS_LOG, STEPS)
        fresh = _begins(reset_ptr, b, begin, T, STEPS)
        h = tl.load(saved_ptr + (b * chunks + begin // STEPS) * N + at, mask=inside, other=0)
        before = ()  # the states that the decays multiply, from the one that was saved
        for j in tl.static_range(STEPS):
            before += (tl.where(fresh[j], 0.0, h),)
            h = a[j] * before[j] + x[j]
        for j in tl.static_range(STEPS - 1, -1, -1):
            now = at < tl.where(begin + j < T, N, 0)
            g += dh[j]
            tl.store(dx_ptr + (b * T + begin + j) * N + at, rounded(g, dx_ptr.dtype.element_ty), mask=now)
            da = before[j] * g
            if IS_LOG:
                da *= a[j]
            if CONSTANT:
                total += tl.where(begin + j < T, da, 0.0)
            else:
                tl.store(da_ptr + (b * T + begin + j) * N + at, da, mask=now)
            g = tl.where(fresh[j], 0.0, a[j] * g)
    if CONSTANT:
        tl.store(da_ptr + b * N + at, total, mask=inside)
    tl.store(dfirst_ptr + b * N + at, g, mask=inside)
