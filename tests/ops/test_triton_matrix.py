"""The Triton kernels of the matrix scans: what the tests of all Triton kernels (test_triton.py) do not cover."""

import dataclasses

import pytest
import torch
from against_float64 import assert_all_as_good, draw
from cases import differentiable, matrix, scaled

from conftest import need
from matrixstate.errors import BackendUnavailable
from matrixstate.ops import ScaledState, matrix_scan, scaled_matrix_scan


@pytest.fixture(autouse=True)
def _triton_is_needed():
    need("matrix_scan", "triton")


def in_chunks(case):
    """The case with method="chunked" on Triton and, beside it, one step after another in plain PyTorch."""
    call = case.call
    methods = {"triton": "chunked", "reference": "sequential"}
    chunked = lambda *a, backend, **o: call(*a, method=methods[backend], backend=backend, **o)  # noqa: E731
    return dataclasses.replace(case, call=chunked)


CASES = matrix("triton", heads=1), matrix("triton", R=18, v=True), scaled("triton", heads=1)


@pytest.mark.parametrize("T", [12, pytest.param(7, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_chunks_are_as_good_as_plain_pytorch(case, T):
    assert_all_as_good(in_chunks(case), draw(case, T))


def test_the_operator_keeps_the_promises_of_pytorch_in_chunks():
    x, first = differentiable({"x": torch.randn(1, 4, 1, 3, 3), "first": torch.randn(1, 1, 3, 3)})
    scaled_matrix_scan(x, backend="triton")  # registers the operators
    for exponent in (None, torch.zeros(1, 1, dtype=torch.int32)):
        torch.library.opcheck(torch.ops.matrixstate.matrix_scan_triton, (x, None, first, exponent, None, 2))


def test_products_beyond_float32_have_the_exponents_of_plain_pytorch_and_finite_gradients():
    x = torch.eye(3) + 0.3 * torch.randn(1, 9, 2, 3, 3)
    x = x * torch.tensor([2.0**40, 2.0**-50, 2.0**40] * 3)[:, None, None, None]
    (x,) = differentiable({"x": x})
    state = ScaledState(torch.eye(3).expand(1, 2, 3, 3), torch.tensor([[1000, -7]], dtype=torch.int32))
    h, log_scale, last = scaled_matrix_scan(x, state, backend="triton")
    plain_h, plain_scale, plain_last = scaled_matrix_scan(x, state, backend="reference")
    assert torch.equal(last.exponent, plain_last.exponent)
    assert last.exponent.dtype == torch.int32
    torch.testing.assert_close(h, plain_h)
    torch.testing.assert_close(log_scale, plain_scale)
    assert last.matrix.abs().amax((-2, -1)).ge(0.5).all()
    assert last.matrix.abs().amax() < 1
    assert torch.autograd.grad(log_scale[:, -1].sum() + h.sum(), x)[0].isfinite().all()


def test_zeros_and_what_is_not_finite_are_not_rescaled():
    x = torch.stack([torch.zeros(4, 3, 3), torch.full((4, 3, 3), torch.nan)], dim=1)[None]
    h, log_scale, last = scaled_matrix_scan(x, backend="triton")
    assert not h[:, :, 0].any()
    assert h[:, :, 1].isnan().all()
    assert log_scale[..., 0].isfinite().all()
    assert torch.equal(last.exponent, torch.zeros(1, 2, dtype=torch.int32))


def test_a_reset_replaces_what_is_not_finite_and_lets_no_gradient_pass():
    x, v = torch.eye(3) + 0.1 * torch.randn(2, 9, 1, 3, 3), torch.randn(2, 9, 1, 3, 3)
    reset, state = torch.arange(9).eq(4).expand(2, 9), torch.full((2, 1, 3, 3), torch.nan)
    for added in (v, None):
        h, last = matrix_scan(x, added, state, reset=reset, backend="triton")
        assert h[:, :4].isnan().all()
        assert h[:, 4:].isfinite().all()
        assert last.isfinite().all()
    (x,) = differentiable({"x": x})
    h, _ = matrix_scan(x, v, reset=reset, backend="triton")
    incoming = torch.zeros_like(h)
    incoming[:, 6] = torch.nan
    (dx,) = torch.autograd.grad(h, x, incoming)
    assert dx[:, 5].isnan().any()
    assert not dx[:, :4].any()


def test_other_orders_of_products_and_large_matrices_are_refused_in_words():
    x = torch.eye(65).expand(1, 1, 1, 65, 65)
    for op in (matrix_scan, scaled_matrix_scan):
        with pytest.raises(BackendUnavailable, match="triton: .* registers, for which D and R must be at most 64"):
            op(x, backend="triton")
        with pytest.raises(BackendUnavailable, match="triton: .* which is not method 'brent_kung'"):
            op(x[..., :3, :3], method="brent_kung", backend="triton")
        op(x)  # the others have no such bound
    tall = ScaledState(torch.randn(1, 1, 65, 4), torch.zeros(1, 1, dtype=torch.int32))
    with pytest.raises(BackendUnavailable, match="D and R must be at most 64"):
        scaled_matrix_scan(x[..., :4, :4], tall, backend="triton")
    matrix_scan(x[..., :4, :4], None, tall.matrix, backend="triton")  # rows are divided among programs
