"""The MRU's matrices in registers: from free elements to X, and from the gradient of X to that of the elements.

Equations are those of README.md. A matrix is a tile [P, P], P the order D padded to what products take; rows and
columns beyond D are zeros. `i` and `j` are the numbers of its rows [P, 1] and of its columns [1, P].
"""

# pyright: reportOperatorIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
# Python here is the language of Triton, whose numbers are tensors.
import triton
import triton.language as tl

from matrixstate.ops._triton import dot


@triton.jit
def identity(i, j, D: tl.constexpr):
    return tl.where((i == j) & (i < D), 1.0, 0.0)


@triton.jit
def load_elements(start, i, j, D: tl.constexpr, BUILDER: tl.constexpr):
    """The elements of one matrix, which begin at `start`, in their places; as they are stored.

    Those of a skew matrix in both of their places, without the sign.
    """
    if BUILDER == "cayley":
        row, column = tl.maximum(i, j), tl.minimum(i, j)
        elements = tl.load(start + (row * (row - 1) // 2 + column), mask=(i != j) & (row < D), other=0)
    else:
        elements = tl.load(start + (i * D + j), mask=(i < D) & (j < D), other=0)
    return elements


@triton.jit
def build(elements, i, j, D: tl.constexpr, BUILDER: tl.constexpr, PRECISION: tl.constexpr):
    """X of the elements, as `load_elements` loads them."""
    elements = elements.to(tl.float32)
    if BUILDER == "ldu":
        lower, upper, _ = _ldu_factors(elements, i, j, D)
        x = dot(lower, upper, False, PRECISION)
    elif BUILDER == "cayley":
        x = _cayley(elements, i, j, D)
    else:
        x = elements + identity(i, j, D)
    return x


@triton.jit
def element_gradient(dx, x, elements, i, j, D: tl.constexpr, BUILDER: tl.constexpr, PRECISION: tl.constexpr):
    """The gradient of the elements from that of X; of a skew matrix in both places, negated above the diagonal."""
    if BUILDER == "ldu":
        lower, upper, scale = _ldu_factors(elements.to(tl.float32), i, j, D)
        # Weighted and not selected: what two selections keep in registers spilled. scale is zero off the diagonal.
        of_lower = dot(dx, tl.trans(upper), False, PRECISION) * tl.where(i > j, 1.0, scale / 2)
        of_upper = dot(tl.trans(lower), dx, False, PRECISION) * tl.where(i < j, 1.0, scale / 2)
        gradient = of_lower + of_upper
        mean = tl.sum(tl.sum(tl.where(i == j, gradient, 0.0), 1), 0) / D
        gradient -= tl.where((i == j) & (i < D), mean, 0.0)
    elif BUILDER == "cayley":
        transposed = tl.trans((x + identity(i, j, D)) / 2)  # of N = (I - A)^-1
        of_skew = 2 * dot(dot(transposed, dx, False, PRECISION), transposed, False, PRECISION)
        gradient = of_skew - tl.trans(of_skew)
    else:
        gradient = dx
    return gradient


@triton.jit
def place_elements(start, i, j, D: tl.constexpr, BUILDER: tl.constexpr):
    """Where `element_gradient` is stored, beginning at `start`, and which of its numbers are."""
    if BUILDER == "cayley":
        places, inside = start + (i * (i - 1) // 2 + j), (i > j) & (i < D)
    else:
        places, inside = start + (i * D + j), (i < D) & (j < D)
    return places, inside


@triton.jit
def _ldu_factors(elements, i, j, D: tl.constexpr):
    """L + S, S + U and S, with s_i = exp((x_ii - mean x_ii)/2)."""
    diagonal = tl.where(i == j, elements, 0.0)
    mean = tl.sum(tl.sum(diagonal, 1), 0) / D
    scale = tl.where((i == j) & (i < D), tl.exp((diagonal - mean) / 2), 0.0)
    return tl.where(i > j, elements, scale), tl.where(i < j, elements, scale), scale


@triton.jit
def _cayley(elements, i, j, D: tl.constexpr):
    """2 (I - A)^-1 - I. Without pivots, as none is below 1, and in float64, which errs as little as a solve by LU."""
    inverse = tl.where(i == j, 1.0, tl.where(i > j, -elements, elements)).to(tl.float64)
    for k in range(D):  # Gauss-Jordan, in place
        row = tl.sum(tl.where(i == k, inverse, 0.0), 0)[None, :]
        column = tl.sum(tl.where(j == k, inverse, 0.0), 1)[:, None]
        pivot = tl.sum(tl.where(j == k, row, 0.0), 1)[:, None]
        row = tl.where(j == k, 1.0, row) * _reciprocal(pivot)
        inverse = tl.where(i == k, row, tl.where(j == k, 0.0, inverse) - column * row)
    x = (2 * inverse).to(tl.float32) - tl.where(i == j, 1.0, 0.0)
    return tl.where((i < D) & (j < D), x, 0.0)


@triton.jit
def _reciprocal(x):
    """1/x of a float64 in float32's range, by two steps of Newton's method: a division would be a call, and spill."""
    y = (1 / x.to(tl.float32)).to(tl.float64)
    y *= 2 - x * y
    return y * (2 - x * y)
