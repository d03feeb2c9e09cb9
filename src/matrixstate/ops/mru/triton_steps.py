"""One step of the MRU on a state in registers, for the programs of `triton_programs` and `triton_phases`.

Equations and names are those of README.md. A state is a tile m [P, P] and, where it is rescaled, an exponent e: m 2^e.
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import dot, tanh_within
from matrixstate.ops.mru.triton_builders import identity, load_elements

RESET, PADDED = tl.constexpr(1), tl.constexpr(2)  # bits of a step's flags
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_step(
    elements_ptr,
    v_ptr,
    decay_ptr,
    flags_ptr,
    bt,
    n,
    i,
    j,
    H: tl.constexpr,
    D: tl.constexpr,
    ELEMENTS: tl.constexpr,
    BUILDER: tl.constexpr,
    HAS_V: tl.constexpr,
    HAS_DECAY: tl.constexpr,
):
    """Elements, V, f and flags of head n as they are stored. bt: b T + t. Without V and decay, numbers instead."""
    elements = load_elements(elements_ptr + (bt * H + n) * ELEMENTS, i, j, D, BUILDER)
    v, f = tl.full((), 0.0, tl.float32), tl.full((), 1.0, tl.float32)
    if HAS_V:
        v = tl.load(v_ptr + (bt * H + n) * D * D + (i * D + j), mask=(i < D) & (j < D), other=0)
    if HAS_DECAY:
        f = tl.load(decay_ptr + bt * H + n)
    return elements, v, f, tl.load(flags_ptr + bt)


@triton.jit
def begin_step(m, flags, i, j, D: tl.constexpr, HAS_V: tl.constexpr):
    """m_{t-1}, or what a reset puts in its place: zeros where V is added, else the identity."""
    start = 0.0 if HAS_V else identity(i, j, D)
    return tl.where((flags & RESET) != 0, start, m)


@triton.jit
def advance(
    m,
    e,
    x,
    v,
    f,
    flags,
    HAS_V: tl.constexpr,
    HAS_DECAY: tl.constexpr,
    RESCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The next state and exponent from those that `begin_step` left. Padding changes no bit of the state."""
    if HAS_DECAY:
        x = f * x
    product = dot(m, x, False, PRECISION)
    if HAS_V:
        product += v.to(tl.float32)
    m = tl.where((flags & PADDED) != 0, m, product)
    if RESCALE:
        e = tl.where((flags & RESET) != 0, 0, e)
        m, e = rescale(m, e)
    return m, e


@triton.jit
def rescale(m, e):
    """Moves a power of two from m to e, which rounds nothing: the largest |entry| is then in [1/2, 1)."""
    bits = m.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # integers in the order of |m|, NaN the last
    most = tl.max(tl.max(bits, 1), 0)
    moved = tl.minimum((most >> 23) - 126, 126)
    moved = tl.where((most == 0) | (most >= 0x7F800000), 0, moved)  # zeros and what is not finite stay
    return m * normal_power(-moved), e + moved


@triton.jit
def power_of_two(k):
    """2^k, also where that is no normal number: zero and infinity far outside of float32's range."""
    k = tl.minimum(tl.maximum(k, -252), 254)
    half = k >> 1
    return normal_power(half) * normal_power(k - half)


@triton.jit
def normal_power(k):
    """2^k for -126 <= k <= 127, made of its bits."""
    return ((k + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def squared_norm(m):
    return tl.sum(tl.sum(m * m, 1), 0)


@triton.jit
def read_out(m, e, bound, D: tl.constexpr, READOUT: tl.constexpr, RESCALE: tl.constexpr):
    """s of y = s m W, and κ/|m|² of its gradient: as s depends on m, dm gets κ <P, m>/|m|² m."""
    scale, kappa = 1.0, 0.0
    if READOUT == "state":
        if RESCALE:
            scale = power_of_two(e)
    else:
        size = squared_norm(m)
        relative = tl.sqrt(size / D)
        clamped = size == 0.0 if RESCALE else relative < 1e-6 / D**0.5  # a rescaled state is zero or not small
        relative = tl.where(clamped, 1.0 if RESCALE else 1e-6 / D**0.5, relative)
        scale, kappa = 1 / relative, tl.where(clamped, 0.0, -1 / (D * relative * relative))
        if READOUT == "bounded":
            log_scale = tl.log(relative)
            if RESCALE:
                log_scale += e.to(tl.float32) * LN2
            level = tanh_within(log_scale / bound)
            scale *= tl.exp(bound * level)
            kappa *= level * level
    return scale, kappa
