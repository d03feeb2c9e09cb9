"""The rule for "close enough" must fail when it should."""

import pytest
import torch

from closeness import assert_as_good_as, assert_equal_to_rounding
from matrixstate.evaluation.closeness import nudge

EXACT = torch.linspace(1, 2, 11, dtype=torch.float64)
PLAIN = (EXACT + 1e-4).float()


def test_twice_the_error_of_plain_pytorch_passes():
    assert_as_good_as((EXACT - 1.9e-4).float(), PLAIN, EXACT, "y")


def test_the_larger_error_of_several_runs_counts():
    got = (EXACT - 1.9e-4).float()
    assert_as_good_as(got, [EXACT.float(), PLAIN], EXACT, "y")
    with pytest.raises(AssertionError, match="y: "):
        assert_as_good_as(got, [EXACT.float(), EXACT.float()], EXACT, "y")


def test_a_nudge_moves_every_number_by_one_unit_but_zero_and_one():
    x = torch.cat([torch.zeros(1), torch.ones(1), torch.linspace(1.5, 9, 1000)])
    moved = nudge(x, torch.Generator().manual_seed(0))
    assert torch.equal(moved[:2], x[:2])
    assert ((moved - x)[2:] != 0).all()
    assert ((moved - x).abs() <= torch.finfo(torch.float32).eps * x).all()
    assert torch.equal(nudge(torch.arange(3), torch.Generator()), torch.arange(3))


@pytest.mark.parametrize(
    "bad",
    [
        (EXACT + 3e-4).float(),
        torch.full_like(PLAIN, -7),
        torch.where(torch.arange(11) == 5, float("nan"), PLAIN),
        PLAIN[:-1],
        PLAIN.double(),
    ],
    ids=["too far", "constant", "one NaN", "short", "other dtype"],
)
def test_anything_else_fails(bad):
    with pytest.raises(AssertionError, match="y: "):
        assert_as_good_as(bad, PLAIN, EXACT, "y")


def test_a_difference_beyond_rounding_fails():
    with pytest.raises(AssertionError, match="y: "):
        assert_equal_to_rounding(EXACT + 1e-7, EXACT, "y")
