"""The rule itself must fail when it should."""

import pytest
import torch

from closeness import assert_as_good_as, assert_equal_to_rounding

EXACT = torch.linspace(1, 2, 11, dtype=torch.float64)
PLAIN = (EXACT + 1e-4).float()


def test_twice_the_error_of_plain_pytorch_passes():
    assert_as_good_as((EXACT - 1.9e-4).float(), PLAIN, EXACT, "y")


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


def test_rounding_is_not_a_licence():
    with pytest.raises(AssertionError, match="y: "):
        assert_equal_to_rounding(EXACT + 1e-7, EXACT, "y")
