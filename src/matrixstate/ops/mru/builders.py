"""Builders: pure functions from the free elements of a token to the square matrix of the matrix recurrent unit.

Every builder takes elements [..., n] in row-major order and returns matrices [..., D, D]. n is D² ("full") or
D(D-1)/2, the strictly lower triangle row by row ("skew"). Zero elements give the identity, except for `householder`,
whose D reflections give minus the identity. Sources: M. Levi, mru-lm, README and create_state_matrix.ipynb.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from matrixstate.errors import ConfigError, ShapeError
from matrixstate.ops._checks import accumulation_dtype, full_precision


class Builder(NamedTuple):
    """One way to build state matrices."""

    build: Callable[[Tensor, int], Tensor]
    elements: Callable[[int], int]  # how many free elements a matrix of that order has


def build_state_matrix(name: str, elements: Tensor, order: int) -> Tensor:
    """Matrices [..., order, order] from free elements [..., n].

    Args:
        name: a key of `BUILDERS`.
        elements: [..., n] floating point, n = `BUILDERS[name].elements(order)`.
        order: D >= 1.

    Returns:
        [..., order, order], at least float32, computed outside autocast.

    Raises:
        ConfigError: an unknown name. ShapeError: another number of elements.
    """
    if name not in BUILDERS:
        raise ConfigError(f"build_state_matrix: name must be one of {', '.join(BUILDERS)}, got {name!r}")
    builder = BUILDERS[name]
    wanted = builder.elements(order)
    if elements.shape[-1] != wanted or not elements.is_floating_point():
        raise ShapeError(
            f"build_state_matrix: elements must be floating point [..., {wanted}] for {name} of order {order}, "
            f"got {elements.dtype} {list(elements.shape)}"
        )
    with full_precision(elements):
        return builder.build(elements.to(accumulation_dtype(elements.dtype)), order)


def _square(elements: Tensor, order: int) -> Tensor:
    return elements.unflatten(-1, (order, order))


def _identity(like: Tensor, order: int) -> Tensor:
    return torch.eye(order, dtype=like.dtype, device=like.device)


def _lower(elements: Tensor, order: int) -> Tensor:
    """The elements as a strictly lower triangle, row by row."""
    rows, columns = torch.tril_indices(order, order, offset=-1, device=elements.device)
    lower = elements.new_zeros(*elements.shape[:-1], order * order)
    return lower.index_copy(-1, rows * order + columns, elements).unflatten(-1, (order, order))


def _cayley_of(skew: Tensor) -> Tensor:
    """(I - A)^{-1} (I + A): a rotation that never has the eigenvalue -1."""
    identity = _identity(skew, skew.shape[-1])
    return torch.linalg.solve(identity - skew, identity + skew)


def _centred_exp(diagonal: Tensor) -> Tensor:
    """exp(x_i - mean x): positive numbers whose product is 1."""
    return torch.exp(diagonal - diagonal.mean(dim=-1, keepdim=True))


def reshape_identity(elements: Tensor, order: int) -> Tensor:
    """x + I. Neither norm nor determinant is bounded."""
    return _square(elements, order) + _identity(elements, order)


def scalar_det(elements: Tensor, order: int) -> Tensor:
    """(x + I) / |det(x + I)|^{1/D}: determinant 1 or -1. Not finite at a singular x + I."""
    matrix = reshape_identity(elements, order)
    log_det = torch.linalg.slogdet(matrix).logabsdet
    return matrix * torch.exp(-log_det / order)[..., None, None]


def scalar_frobenius(elements: Tensor, order: int) -> Tensor:
    """(x + I) sqrt(D) / |x + I|: the Frobenius norm of the identity."""
    matrix = reshape_identity(elements, order)
    return matrix * (order**0.5 / torch.linalg.matrix_norm(matrix))[..., None, None]


def ldu(elements: Tensor, order: int) -> Tensor:
    """(L + S)(U + S) with s_i = exp((x_ii - mean x_ii)/2): determinant 1, norm not bounded."""
    square = _square(elements, order)
    scale = torch.diag_embed(_centred_exp(square.diagonal(dim1=-2, dim2=-1) / 2))
    return (square.tril(-1) + scale) @ (square.triu(1) + scale)


def cayley(elements: Tensor, order: int) -> Tensor:
    """(I - A)^{-1} (I + A) with A skew: orthogonal, determinant 1, no eigenvalue -1."""
    lower = _lower(elements, order)
    return _cayley_of(lower - lower.mT)


def matrix_exp(elements: Tensor, order: int) -> Tensor:
    """exp(A) with A skew: orthogonal, determinant 1; every rotation."""
    lower = _lower(elements, order)
    return torch.linalg.matrix_exp(lower - lower.mT)


def householder(elements: Tensor, order: int) -> Tensor:
    """D reflections in the columns of L + I: orthogonal, determinant (-1)^D; minus the identity at zero."""
    columns = _lower(elements, order) + _identity(elements, order)
    product = _identity(elements, order).expand_as(columns)
    for column in columns.unbind(dim=-1):
        direction = column[..., None]
        product = product - (product @ direction) @ direction.mT * (2 / (direction.mT @ direction))
    return product


def cayley_qr(elements: Tensor, order: int) -> Tensor:
    """Cayley Q of the strictly lower triangle times an upper R with diagonal exp(x_ii - mean x_ii): determinant 1."""
    square = _square(elements, order)
    lower = square.tril(-1)
    diagonal = torch.diag_embed(_centred_exp(square.diagonal(dim1=-2, dim2=-1)))
    return _cayley_of(lower - lower.mT) @ (square.triu(1) + diagonal)


def ldu_newton_schulz(elements: Tensor, order: int) -> Tensor:
    """One Newton-Schulz step from S = `ldu` towards orthogonality, rescaled to a determinant near 1.

    S (I + E/2) with E = I - SᵀS/|S|². The eigenvalues of E/2 have the mean m = (D-1)/(2D) and some variance s, so
    log det(I + E/2) is about D (log(1+m) - s/(2(1+m)²)); the scale compensates for that.
    """
    matrix = ldu(elements, order)
    error = _identity(matrix, order) - matrix.mT @ matrix / matrix.square().sum(dim=(-2, -1), keepdim=True)
    mean = (order - 1) / (2 * order)
    variance = (error.square().sum(dim=(-2, -1), keepdim=True) / (4 * order) - mean**2).clamp_min(0)
    scale = torch.exp(variance / (2 * (1 + mean) ** 2)) / (1 + mean)
    return scale * (matrix + matrix @ error / 2)


def _full(order: int) -> int:
    return order * order


def _skew(order: int) -> int:
    return order * (order - 1) // 2


BUILDERS: dict[str, Builder] = {
    "reshape_identity": Builder(reshape_identity, _full),
    "scalar_det": Builder(scalar_det, _full),
    "scalar_frobenius": Builder(scalar_frobenius, _full),
    "ldu": Builder(ldu, _full),
    "cayley": Builder(cayley, _skew),
    "matrix_exp": Builder(matrix_exp, _skew),
    "householder": Builder(householder, _skew),
    "cayley_qr": Builder(cayley_qr, _full),
    "ldu_newton_schulz": Builder(ldu_newton_schulz, _full),
}
