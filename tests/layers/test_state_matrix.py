"""The maps from elements to matrices: their properties, their value at zero, their gradients."""

import pytest
import torch

from matrixstate.errors import ConfigError, ShapeError
from matrixstate.layers import build_state_matrix
from matrixstate.layers.state_matrix import BUILDERS

F64 = torch.float64
ORTHOGONAL = ("cayley", "matrix_exp", "householder")
everywhere = pytest.mark.parametrize("name", BUILDERS)
orders = pytest.mark.parametrize("order", [1, 2, 3, 5])


def draw(name, order, *shape, scale=0.5):
    return scale * torch.randn(*shape, BUILDERS[name].elements(order), dtype=F64)


@everywhere
@orders
def test_zero_elements_give_the_identity(name, order):
    matrix = build_state_matrix(name, torch.zeros(3, BUILDERS[name].elements(order), dtype=F64), order)
    sign = -1 if name == "householder" else 1
    torch.testing.assert_close(matrix, sign * torch.eye(order, dtype=F64).expand(3, order, order))


@orders
@pytest.mark.parametrize("name", ORTHOGONAL)
def test_orthogonal_builders_are_orthogonal(name, order):
    matrix = build_state_matrix(name, draw(name, order, 4, 2), order)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(order, dtype=F64).expand(4, 2, order, order))


@orders
@pytest.mark.parametrize("name", ["ldu", "cayley", "matrix_exp", "cayley_qr", "householder", "scalar_det"])
def test_determinants(name, order):
    det = torch.linalg.det(build_state_matrix(name, draw(name, order, 20), order))
    if name == "scalar_det":
        det = det.abs()
    expected = (-1.0) ** order if name == "householder" else 1.0
    torch.testing.assert_close(det, torch.full_like(det, expected))


def test_the_frobenius_norm_is_that_of_the_identity():
    matrix = build_state_matrix("scalar_frobenius", draw("scalar_frobenius", 5, 7), 5)
    torch.testing.assert_close(torch.linalg.matrix_norm(matrix), torch.full((7,), 5**0.5, dtype=F64))


def test_a_newton_schulz_step_keeps_the_determinant_near_one_and_improves_the_condition():
    elements = draw("ldu", 8, 200, scale=0.1)
    before, after = (build_state_matrix(name, elements, 8) for name in ("ldu", "ldu_newton_schulz"))
    det = torch.linalg.det(after)
    assert (det - 1).abs().median() < 0.02
    assert (torch.linalg.cond(after) < torch.linalg.cond(before)).all()


def test_elements_are_ordered_row_by_row():
    full = torch.arange(1.0, 10, dtype=F64) / 10
    torch.testing.assert_close(
        build_state_matrix("reshape_identity", full, 3), full.view(3, 3) + torch.eye(3, dtype=F64)
    )
    a, b, c = skew = torch.tensor([0.1, 0.2, 0.3], dtype=F64)
    generator = torch.tensor([[0, -a, -b], [a, 0, -c], [b, c, 0]], dtype=F64)
    eye = torch.eye(3, dtype=F64)
    torch.testing.assert_close(build_state_matrix("matrix_exp", skew, 3), torch.linalg.matrix_exp(generator))
    torch.testing.assert_close(
        build_state_matrix("cayley", skew, 3), torch.linalg.inv(eye - generator) @ (eye + generator)
    )
    lower = torch.tensor([[1, 0, 0], [a, 1, 0], [b, c, 1]], dtype=F64)
    tau = 2 / lower.square().sum(dim=0)
    torch.testing.assert_close(build_state_matrix("householder", skew, 3), torch.linalg.householder_product(lower, tau))


def test_ldu_is_the_product_of_its_factors():
    x = draw("ldu", 3)
    square = x.view(3, 3)
    scale = torch.diag(torch.exp((square.diagonal() - square.diagonal().mean()) / 2))
    expected = (square.tril(-1) + scale) @ (square.triu(1) + scale)
    torch.testing.assert_close(build_state_matrix("ldu", x, 3), expected)


def test_cayley_never_has_the_eigenvalue_minus_one():
    matrix = build_state_matrix("cayley", draw("cayley", 4, 500, scale=3), 4)
    assert (torch.linalg.eigvals(matrix) + 1).abs().min() > 1e-6


@everywhere
def test_gradients_are_right_in_float64(name):
    elements = draw(name, 3, 2, scale=0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: build_state_matrix(name, x, 3), (elements,))
    assert torch.autograd.gradgradcheck(lambda x: build_state_matrix(name, x, 3), (elements,))


@everywhere
def test_low_precision_is_computed_in_float32_outside_autocast(name):
    elements = draw(name, 4, 2).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = build_state_matrix(name, elements, 4)
    assert torch.equal(got, build_state_matrix(name, elements.float(), 4))


def test_wrong_names_and_sizes_are_refused():
    with pytest.raises(ConfigError, match=r"name must be one of reshape_identity, .*got 'qr'"):
        build_state_matrix("qr", torch.zeros(9), 3)
    with pytest.raises(
        ShapeError, match=r"elements must be floating point \[..., 3\] for cayley of order 3, got .* \[9\]"
    ):
        build_state_matrix("cayley", torch.zeros(9), 3)
