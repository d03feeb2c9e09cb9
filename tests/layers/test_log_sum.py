"""Running sums of exponentials in log space."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.layers.log_sum import EMPTY, log_cumulative_sum


@pytest.mark.parametrize("length", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_it_is_the_sum_of_each_document_before_the_step(length, size):
    torch.manual_seed(length)
    x = (size * torch.randn(2, length, 3, 2, dtype=torch.float64)).requires_grad_()
    start = torch.randn(2, 3, 2, dtype=torch.float64).requires_grad_()
    reset = torch.rand(2, length) < 0.2
    before, last = log_cumulative_sum(x, start, reset)
    rows = []
    for b in range(2):
        total, row = start[b], []
        for t in range(length):
            total = torch.full_like(total, EMPTY) if reset[b, t] else total
            row.append(total)
            total = torch.logaddexp(total, x[b, t])
        rows.append(torch.stack([*row, total]))
    expected = torch.stack(rows)
    assert_equal_to_rounding(torch.cat([before, last[:, None]], dim=1), expected, "z")
    weights = torch.linspace(0.5, 1.5, expected.numel(), dtype=torch.float64).view_as(expected)
    got = torch.autograd.grad((torch.cat([before, last[:, None]], dim=1) * weights).sum(), [x, start])
    for one, other in zip(got, torch.autograd.grad((expected * weights).sum(), [x, start]), strict=True):
        assert_equal_to_rounding(one, other, "gradient")


def test_a_step_that_adds_nothing_leaves_the_state_bit_for_bit():
    state = torch.randn(2, 3, 2)
    _, last = log_cumulative_sum(torch.full((2, 5, 3, 2), EMPTY), state, None)
    assert torch.equal(last, state)
    assert last.data_ptr() != state.data_ptr()
