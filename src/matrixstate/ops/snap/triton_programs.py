"""The product that corrects its errors as two Triton programs through time. Equations and names: README.md.

One program is one row of the batch and one group of heads for all t. The group's states are one tile [HEADS, ORDER,
ORDER] in registers, padded with zeros. Codes are compared and mixed as vectors of the E = H/G D² numbers of a group; a
tile becomes such a vector, and a vector a tile, by way of the memory of an output that the step writes anyway.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import dot, dot_of_halves

TINY = tl.constexpr(2.0**-126)  # the smallest normal number


@triton.jit
def _product(h, x, HEADS: tl.constexpr, ORDER: tl.constexpr, PRECISION: tl.constexpr):
    """h x for every head of tiles [HEADS, ORDER, ORDER], in float32's precision; x may be bfloat16."""
    if HEADS == 1:
        h, x = tl.reshape(h, (ORDER, ORDER)), tl.reshape(x, (ORDER, ORDER))
    if x.dtype == tl.bfloat16:
        product = dot_of_halves(h, x)
    else:
        product = dot(h, x, False, PRECISION)
    return tl.reshape(product, (HEADS, ORDER, ORDER))


@triton.jit
def _inner(a, b):
    """<a, b> of every head, as an axis of length HEADS and two of length 1."""
    return tl.sum(tl.sum(a * b, 2), 1)[:, None, None]


@triton.jit
def _inverse_norm(m):
    """1/|m| of every head, where |m| is at least the smallest normal number: 1/|m| sqrt(D) could be infinite."""
    norm = tl.sqrt_rn(_inner(m, m))
    return 1 / tl.where(norm < TINY, TINY, norm)


@triton.jit
def _unit_backward(d, u, inverse, D: tl.constexpr):
    """The gradient of m from d, that of u = unit(m)."""
    projection = tl.where(inverse < 1 / TINY, _inner(u, d) / D, 0.0)
    return (d - projection * u) * inverse * D**0.5


@triton.jit(do_not_specialize=["T", "every"])
def forward(
    x_ptr,  # [B, T, H, D, D]
    keys_ptr,  # [G, M, E]
    values_ptr,  # [G, M, E]
    first_ptr,  # [B, H, D, D]
    phase_ptr,  # [B]
    mask_ptr,  # [B, T] int8
    reset_ptr,  # [B, T] int8
    h_ptr,  # [B, T, H, D, D]
    after_ptr,  # [B], the phase after the last step
    inverse_ptr,  # [B, T, H]: 1/|H_{t-1} X_t|
    slot_ptr,  # [B, T]: n of the step that is the n-th correction, else -1
    corrected_ptr,  # [B, G, N, E]: A_t of the corrections
    weights_ptr,  # [B, G, N, M]: their softmax
    mixed_ptr,  # [B, G, N, H/G]: 1/|Σ p_m V_m|
    T,
    every,
    H: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    ORDER: tl.constexpr,
    NUMBERS: tl.constexpr,
    CODES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    b, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head, i = tl.arange(0, HEADS)[:, None, None], tl.arange(0, ORDER)
    row, column = i[None, :, None], i[None, None, :]
    tile, inside = (head * D + row) * D + column, (head < H // G) & (row < D) & (column < D)
    number, E = tl.arange(0, NUMBERS), H // G * D * D
    h = tl.load(first_ptr + (b * G + g) * E + tile, mask=inside, other=0)
    phase = tl.load(phase_ptr + b)
    corrections = 0

    x = tl.load(x_ptr + (b * T * G + g) * E + tile, mask=inside, other=0)
    for t in range(T):
        bt = b * T + t
        here = (bt * G + g) * E
        real, fresh = tl.load(mask_ptr + bt) != 0, tl.load(reset_ptr + bt) != 0
        h = tl.where(fresh, tl.where(inside & (row == column), 1.0, 0.0), h)
        phase = tl.where(fresh, 0, phase)
        a = _product(h, x, HEADS, ORDER, PRECISION)
        inverse = _inverse_norm(a)
        tl.store(inverse_ptr + (bt * G + g) * (H // G) + head, inverse, mask=head < H // G)
        a = a * inverse * D**0.5
        x = tl.load(x_ptr + ((b * T + tl.minimum(t + 1, T - 1)) * G + g) * E + tile, mask=inside, other=0)
        due = real & (phase + 1 >= every)
        tl.store(slot_ptr + bt, tl.where(due, corrections, -1))
        if due:
            at = (b * G + g) * tl.cdiv(T, every) + corrections
            tl.store(corrected_ptr + at * E + tile, a, mask=inside)
            tl.debug_barrier()  # a thread may load what another one stored
            a_ = tl.load(corrected_ptr + at * E + number, mask=number < E, other=0)
            scores = weights_ptr + at * M
            most, total = -float("inf"), 0.0
            for begin in range(0, M, CODES):
                m = begin + tl.arange(0, CODES)
                code = (g * M + m)[:, None] * E + number[None, :]
                known = (m[:, None] < M) & (number[None, :] < E)
                score = tl.sum(tl.load(keys_ptr + code, mask=known, other=0) * a_[None, :], 1)
                score = tl.where(m < M, score, -float("inf"))
                larger = tl.maximum(most, tl.max(score, 0))
                total = total * tl.exp(most - larger) + tl.sum(tl.exp(score - larger), 0)
                most = larger
                tl.store(scores + m, score, mask=m < M)
            tl.debug_barrier()
            mixed = tl.zeros((NUMBERS,), tl.float32)
            for begin in range(0, M, CODES):
                m = begin + tl.arange(0, CODES)
                code = (g * M + m)[:, None] * E + number[None, :]
                known = (m[:, None] < M) & (number[None, :] < E)
                weight = tl.exp(tl.load(scores + m, mask=m < M, other=-float("inf")) - most) / total
                mixed += tl.sum(tl.load(values_ptr + code, mask=known, other=0) * weight[:, None], 0)
                tl.debug_barrier()
                tl.store(scores + m, weight, mask=m < M)
            tl.store(h_ptr + here + number, mixed, mask=number < E)
            tl.debug_barrier()
            a = tl.load(h_ptr + here + tile, mask=inside, other=0)
            inverse = _inverse_norm(a)
            tl.store(mixed_ptr + at * (H // G) + head, inverse, mask=head < H // G)
            a = a * inverse * D**0.5
            tl.debug_barrier()  # the result overwrites the mixture
            corrections += 1
        h = tl.where(real, a, h)
        phase = tl.where(real, tl.where(due, 0, phase + 1), phase)
        tl.store(h_ptr + here + tile, h, mask=inside)
    tl.store(after_ptr + b, phase)


@triton.jit(do_not_specialize=["T", "N"])
def adjoint(
    x_ptr,
    keys_ptr,
    values_ptr,
    mask_ptr,
    reset_ptr,
    h_ptr,
    inverse_ptr,
    slot_ptr,
    corrected_ptr,
    weights_ptr,
    mixed_ptr,
    dh_ptr,  # [B, T, H, D, D]
    dlast_ptr,  # [B, H, D, D]
    dm_ptr,  # [B, T, H, D, D]: the gradients of H_{t-1} X_t
    dmixed_ptr,  # [B, G, N, E]: those of Σ p_m V_m
    dscores_ptr,  # [B, G, N, M]: those of <A_t, K_m>
    dfirst_ptr,  # [B, H, D, D]
    T,
    N,
    H: tl.constexpr,
    G: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    ORDER: tl.constexpr,
    NUMBERS: tl.constexpr,
    CODES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    b, g = tl.program_id(0).to(tl.int64), tl.program_id(1)
    head, i = tl.arange(0, HEADS)[:, None, None], tl.arange(0, ORDER)
    row, column = i[None, :, None], i[None, None, :]
    tile, inside = (head * D + row) * D + column, (head < H // G) & (row < D) & (column < D)
    number, E = tl.arange(0, NUMBERS), H // G * D * D
    d = tl.load(dlast_ptr + (b * G + g) * E + tile, mask=inside, other=0)

    x = tl.load(x_ptr + ((b * T + T - 1) * G + g) * E + tile, mask=inside, other=0)
    for step in range(T):
        bt = b * T + T - 1 - step
        here = (bt * G + g) * E
        real, fresh, slot = tl.load(mask_ptr + bt) != 0, tl.load(reset_ptr + bt) != 0, tl.load(slot_ptr + bt)
        u = tl.load(h_ptr + here + tile, mask=inside, other=0)
        d += tl.load(dh_ptr + here + tile, mask=inside, other=0)
        dm = d
        if slot >= 0:
            at = (b * G + g) * N + slot
            inverse = tl.load(mixed_ptr + at * (H // G) + head, mask=head < H // G, other=0)
            tl.store(dmixed_ptr + at * E + tile, _unit_backward(d, u, inverse, D), mask=inside)
            tl.debug_barrier()  # a thread may load what another one stored
            dmixed = tl.load(dmixed_ptr + at * E + number, mask=number < E, other=0)
            projection = 0.0  # Σ p <V, dmixed>, which softmax subtracts
            for begin in range(0, M, CODES):
                m = begin + tl.arange(0, CODES)
                code = (g * M + m)[:, None] * E + number[None, :]
                known = (m[:, None] < M) & (number[None, :] < E)
                slope = tl.sum(tl.load(values_ptr + code, mask=known, other=0) * dmixed[None, :], 1)
                projection += tl.sum(tl.load(weights_ptr + at * M + m, mask=m < M, other=0) * slope, 0)
                tl.store(dscores_ptr + at * M + m, slope, mask=m < M)
            tl.debug_barrier()
            da = tl.zeros((NUMBERS,), tl.float32)
            for begin in range(0, M, CODES):
                m = begin + tl.arange(0, CODES)
                code = (g * M + m)[:, None] * E + number[None, :]
                known = (m[:, None] < M) & (number[None, :] < E)
                slope = tl.load(dscores_ptr + at * M + m, mask=m < M, other=0)
                dscore = tl.load(weights_ptr + at * M + m, mask=m < M, other=0) * (slope - projection)
                da += tl.sum(tl.load(keys_ptr + code, mask=known, other=0) * dscore[:, None], 0)
                tl.debug_barrier()
                tl.store(dscores_ptr + at * M + m, dscore, mask=m < M)
            tl.store(dm_ptr + here + number, da, mask=number < E)
            tl.debug_barrier()
            dm = tl.load(dm_ptr + here + tile, mask=inside, other=0)
            u = tl.load(corrected_ptr + at * E + tile, mask=inside, other=0)
            tl.debug_barrier()  # the gradient of the product overwrites it
        inverse = tl.load(inverse_ptr + (bt * G + g) * (H // G) + head, mask=head < H // G, other=0)
        dm = tl.where(real, _unit_backward(dm, u, inverse, D), 0.0)
        tl.store(dm_ptr + here + tile, dm, mask=inside)
        if HEADS == 1:
            transposed = tl.reshape(tl.trans(tl.reshape(x, (ORDER, ORDER))), (HEADS, ORDER, ORDER))
        else:
            transposed = tl.permute(x, (0, 2, 1))
        before = _product(dm, transposed, HEADS, ORDER, PRECISION)
        x = tl.load(x_ptr + ((b * T + tl.maximum(T - 2 - step, 0)) * G + g) * E + tile, mask=inside, other=0)
        d = tl.where(fresh, 0.0, tl.where(real, before, d))  # padding passes it as it is, a reset nothing
    tl.store(dfirst_ptr + (b * G + g) * E + tile, d, mask=inside)
