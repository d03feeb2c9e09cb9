"""The long convolution: the short one, the time-invariant recurrence, causality, and padding, by the FFT."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.errors import BackendUnavailable, ShapeError
from matrixstate.ops import causal_conv, long_conv, lti_scan

F64 = torch.float64


def drawn(T, L, B=2, D=3):
    return torch.randn(B, T, D, dtype=F64), torch.randn(D, L, dtype=F64), torch.randn(B, L - 1, D, dtype=F64)


@pytest.mark.parametrize(("T", "L"), [(1, 1), (1, 5), (9, 1), (9, 4), (8, 9), (33, 100), (130, 65)])
def test_the_fft_is_the_sum_over_lags(T, L):
    leaves, found = [a.requires_grad_() for a in drawn(T, L)], []
    for backend in ("fft", "reference"):
        y, last = long_conv(*leaves, backend=backend)
        loss = (y * torch.linspace(0.5, 1.5, y.numel()).double().view_as(y)).sum() + last.square().sum()
        found.append([y, last, *torch.autograd.grad(loss, leaves)])
    for name, got, expected in zip(("y", "state", "du", "dkernel", "dstate"), *found, strict=True):
        assert_equal_to_rounding(got, expected, name)


def test_the_gradient_of_the_fft_is_right():
    leaves = [a.requires_grad_() for a in drawn(3, 4)]
    assert torch.autograd.gradcheck(lambda *a: long_conv(*a, backend="fft"), leaves)
    assert torch.autograd.gradgradcheck(lambda *a: long_conv(*a, backend="fft"), leaves)


def test_it_is_the_short_convolution_with_lags_in_order():
    u, kernel, state = drawn(20, 4)
    y, last = long_conv(u, kernel, state)
    expected, after = causal_conv(u, kernel.flip(1), state=state)
    assert_equal_to_rounding(y, expected, "y")
    assert torch.equal(last, after)


def test_exponential_filters_are_a_time_invariant_model():
    u, *_ = drawn(90, 1)
    decay = torch.complex(-torch.rand(3, 4, dtype=F64), 4 * torch.randn(3, 4, dtype=F64))
    weight = torch.randn(3, 4, dtype=decay.dtype)
    kernel = (weight[..., None] * torch.exp(decay[..., None] * torch.arange(90))).sum(1).real
    assert_equal_to_rounding(long_conv(u, kernel)[0], lti_scan(u, decay, weight)[0], "y")


def test_a_sequence_may_be_split_and_the_future_does_not_matter():
    u, kernel, state = drawn(50, 70)
    whole, last = long_conv(u, kernel, state, backend="fft")
    first, between = long_conv(u[:, :13], kernel, state, backend="fft")
    second, after = long_conv(u[:, 13:], kernel, between, backend="fft")
    assert_equal_to_rounding(torch.cat([first, second], dim=1), whole, "y")
    assert torch.equal(after, last)
    changed = torch.cat([u[:, :30], u[:, 30:] + 1], dim=1)
    assert_equal_to_rounding(long_conv(changed, kernel, state)[0][:, :30], whole[:, :30], "y")


def test_float32_errs_by_the_largest_output():
    u, kernel, state = drawn(1000, 1000)
    exact, _ = long_conv(u, kernel, state)
    y, _ = long_conv(u.float(), kernel.float(), state.float())
    assert ((y - exact).abs() / exact.abs().amax(1, keepdim=True)).max() < 2e-6


def test_padding_is_left_out_and_a_reset_forgets():
    u, kernel, state = drawn(8, 5, B=4)
    real = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0, 0, 0], [0] * 8]).bool()
    reset = torch.rand(4, 8) < 0.3
    for starts in (None, reset):
        y, last = long_conv(u, kernel, state, mask=real, reset=starts)
        for b in range(4):
            own = None if starts is None else starts[b : b + 1, real[b]]
            expected, after = long_conv(u[b : b + 1, real[b]], kernel, state[b : b + 1], reset=own)
            assert_equal_to_rounding(y[b : b + 1, real[b]], expected, "y")
            assert torch.equal(last[b : b + 1], after)


def test_mistakes_are_named():
    u, kernel, state = drawn(5, 4)
    with pytest.raises(ShapeError, match=r"long_conv: kernel must be torch.float64 \[3, 4\]"):
        long_conv(u, kernel[:2])
    with pytest.raises(ShapeError, match=r"long_conv: state must be torch.float64 \[2, 3, 3\]"):
        long_conv(u, kernel, state[:, 1:])
    with pytest.raises(BackendUnavailable, match="fft: has no resets in the middle of a transform"):
        long_conv(u, kernel, reset=torch.zeros(2, 5, dtype=torch.bool), backend="fft")
