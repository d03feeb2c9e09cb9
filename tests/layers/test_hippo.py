"""The matrices of HiPPO and how they become steps: eigenvalues, special cases, and the past that they remember."""

import math

import pytest
import torch
from torch.special import legendre_polynomial_p

from closeness import assert_equal_to_rounding
from matrixstate.layers.discretise import bilinear, zoh
from matrixstate.layers.hippo import lagt, legs, legs_normal, legt, lmu, real_form

F64 = torch.float64


def test_legs_and_lagt_are_triangular_with_known_eigenvalues():
    A, B = legs(4)
    assert torch.equal(A, A.tril())
    assert A.diag().tolist() == [-1, -2, -3, -4]
    assert A[2, 1].item() == pytest.approx(-math.sqrt(15))
    assert B.square().tolist() == pytest.approx([1, 3, 5, 7])
    A, B = lagt(3)
    assert A.tolist() == [[-0.5, 0, 0], [-1, -0.5, 0], [-1, -1, -0.5]]
    assert B.tolist() == [1, 1, 1]


def test_lmu_is_its_published_matrix():
    A, B = lmu(3)
    assert_equal_to_rounding(A, torch.tensor([[-1, -1, -1], [3, -3, -3], [-5, 5, -5]], dtype=F64), "A")
    assert_equal_to_rounding(B, torch.tensor([1, -3, 5], dtype=F64), "B")


def test_legs_is_normal_plus_low_rank_in_conjugate_pairs():
    decay, P = legs_normal(8)
    p = torch.cat([P, torch.zeros_like(P)])
    real = real_form(decay, p)
    values = torch.linalg.eigvals(real)
    assert values.imag.abs().max() < 1e-6
    assert values.real.sort().values.tolist() == pytest.approx([-8, -7, -6, -5, -4, -3, -2, -1], abs=1e-6)
    # the response to an impulse is that of LegS, read along B
    A, B = legs(8)
    for time in (0.1, 1.0):
        expected = B @ torch.linalg.matrix_exp(time * A) @ B
        got = 2 * 2 * p @ torch.linalg.matrix_exp(time * real) @ p
        assert_equal_to_rounding(got, expected, "impulse response")


@pytest.mark.parametrize("system", [legs, legt, lagt, lmu])
def test_steps_solve_the_system(system):
    A, B = system(6)
    step = torch.tensor([0.1, 0.5], dtype=F64)
    exact, written = zoh(A.expand(2, 6, 6), B.expand(2, 6), step)
    assert_equal_to_rounding(exact[1], torch.linalg.matrix_exp(A / 2), "A")
    assert_equal_to_rounding(A @ written[1], (exact[1] - torch.eye(6, dtype=F64)) @ B, "B")
    near, near_written = bilinear(A, B, 1e-4 * step)
    exact, written = zoh(A.expand(2, 6, 6), B.expand(2, 6), 1e-4 * step)
    assert (near - exact).abs().max() < 1e-9  # of third order in the step
    assert (near_written - written).abs().max() < 1e-6


def test_lmu_remembers_a_window_of_a_smooth_signal():
    window, n = 100, 12
    A, B = zoh(*lmu(n), torch.tensor(1 / window, dtype=F64))
    f = torch.sin(torch.arange(300, dtype=F64) / 15)
    m = torch.zeros(n, dtype=F64)
    for value in f:
        m = A @ m + B * value
    for delay in (0, 25, 50, 99):
        s = torch.tensor(2 * (delay + 0.5) / window - 1, dtype=F64)  # the middle of a step in which f was held
        basis = torch.stack([legendre_polynomial_p(s, torch.tensor(i)) for i in range(n)])
        assert (basis @ m).item() == pytest.approx(f[299 - delay].item(), abs=0.05)


def test_float32_systems_keep_their_digits():
    A, B = lmu(64)
    exact, _ = zoh(A, B, torch.tensor(0.01, dtype=F64))
    rounded, _ = zoh(A.float(), B.float(), torch.tensor(0.01, dtype=F64))
    assert (rounded - exact).abs().max() < 1e-6
