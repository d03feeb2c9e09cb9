"""lti_scan: many chunks, the convolution that it is, and angles of many turns."""

import math

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.errors import ShapeError
from matrixstate.ops import linear_scan, lti_scan

B, D, N = 2, 3, 4


def drawn(T, is_complex=True):
    u = torch.randn(B, T, D, dtype=torch.float64)
    decay, weight = -0.3 * torch.rand(D, N, dtype=torch.float64), torch.randn(D, N, dtype=torch.float64)
    if is_complex:
        decay, weight = (
            torch.complex(decay, 4 * torch.randn_like(decay)),
            torch.complex(weight, torch.randn_like(weight)),
        )
    return [a.requires_grad_() for a in (u, decay, weight, torch.randn_like(weight.expand(B, D, N)))]


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("T", [1, 63, 64, 65, 128, 150])
def test_many_chunks_are_one_sequence(T, is_complex):
    u, decay, weight, state = leaves = drawn(T, is_complex)
    found = []
    for backend in ("chunked", "reference"):
        y, last = lti_scan(u, decay, weight, state=state, backend=backend)
        loss = (y * torch.linspace(0.5, 1.5, y.numel()).double().view_as(y)).sum() + last.abs().square().sum()
        found.append([y, last, *torch.autograd.grad(loss, leaves)])
    for name, got, expected in zip(("y", "state", "du", "ddecay", "dweight", "dstate"), *found, strict=True):
        got, expected = (torch.view_as_real(a) if a.is_complex() else a for a in (got, expected))
        assert_equal_to_rounding(got, expected, name)


def test_it_is_a_convolution_with_the_impulse_response():
    u, decay, weight, _ = drawn(70)
    kernel = (weight[..., None] * torch.exp(decay[..., None] * torch.arange(70))).sum(1).real
    expected = torch.stack([sum(kernel[:, t - s] * u[:, s] for s in range(t + 1)) for t in range(70)], dim=1)
    assert_equal_to_rounding(lti_scan(u, decay, weight)[0], expected, "y")


def test_it_is_a_linear_scan_that_reads_inside():
    u, decay, weight, state = drawn(70)
    reset, mask = torch.rand(B, 70) < 0.05, torch.rand(B, 70) < 0.8
    h, last = linear_scan(u.to(state.dtype)[..., None].expand(B, 70, D, N), decay=decay.exp(), state=state, reset=reset)
    y, after = lti_scan(u, decay, weight, state=state, reset=reset)
    assert_equal_to_rounding(y, (weight * h).sum(-1).real, "y")
    assert_equal_to_rounding(torch.view_as_real(after), torch.view_as_real(last), "state")
    y, after = lti_scan(u[:1], decay, weight, state=state[:1], mask=mask[:1])
    alone, last = lti_scan(u[:1, mask[0]], decay, weight, state=state[:1])
    assert_equal_to_rounding(y[:, mask[0]], alone, "y")
    assert_equal_to_rounding(torch.view_as_real(after), torch.view_as_real(last), "state")


def test_angles_of_many_turns_keep_their_digits():
    """64 steps of 300 radians: float32 knows their sum to 0.001."""
    decay = torch.tensor([[complex(-1e-4, 300.0)]], dtype=torch.complex64)
    u = torch.zeros(1, 64, 1)
    u[0, 0] = 1
    y, _ = lti_scan(u, decay, torch.ones_like(decay))
    exact = [math.exp(float(decay.real) * t) * math.cos(float(decay.imag) * t) for t in range(64)]
    assert (y[0, :, 0].double() - torch.tensor(exact).double()).abs().max() < 1e-6


def test_mistakes_are_named():
    u, decay, weight, state = drawn(5)
    with pytest.raises(ShapeError, match=r"lti_scan: weight must be torch.complex128 \[3, N\] on cpu"):
        lti_scan(u, decay, weight.real)
    with pytest.raises(ShapeError, match=r"lti_scan: log_decay must be torch.complex128 \[3, N\] on cpu"):
        lti_scan(u, decay[:2], weight)
    with pytest.raises(ShapeError, match=r"lti_scan: state must be torch.complex128 \[2, 3, 4\]"):
        lti_scan(u, decay, weight, state=state.real)
