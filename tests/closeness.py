"""The one rule for "close enough": at most twice as far from float64 as plain PyTorch in the same dtype."""

import torch
from torch import Tensor


def assert_as_good_as(got: Tensor, plain: Tensor, exact: Tensor, what: str, *, typical: bool = False) -> None:
    """`got` may err from `exact` (float64) at most twice as far as `plain` (plain PyTorch, same dtype) does.

    The floor of 8 units in the last place of the largest value is for results where PyTorch happens to be exact.
    Errors are compared at their largest; with `typical` by their root mean square, for long products, whose largest
    error is that of the one worst-conditioned step.
    """
    assert got.shape == exact.shape, f"{what}: {list(got.shape)}, not {list(exact.shape)}"
    assert got.dtype == plain.dtype, f"{what}: {got.dtype}, not {plain.dtype}"
    assert got.isfinite().all(), f"{what}: not finite"
    if not got.numel():
        return
    size = (lambda error: error.square().mean().sqrt()) if typical else (lambda error: error.abs().max())
    ours, theirs = (size(result.double() - exact).item() for result in (got, plain))
    floor = 8 * torch.finfo(got.dtype).eps * exact.abs().max().item()
    assert ours <= 2 * theirs + floor, f"{what}: error {ours:.3g}, PyTorch's {theirs:.3g}, floor {floor:.3g}"


ROUNDING = {torch.float64: (1e-9, 1e-11), torch.float32: (3e-4, 1e-5)}  # rtol, atol


def assert_equal_to_rounding(got: Tensor, expected: Tensor, what: str) -> None:
    """Two float64 (or, of a kernel that has no float64, float32) results by other orders of arithmetic."""
    assert got.dtype == expected.dtype, f"{what}: {got.dtype}, {expected.dtype}"
    assert got.dtype in ROUNDING, f"{what}: {got.dtype}"
    rtol, atol = ROUNDING[got.dtype]
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol, msg=lambda text: f"{what}: {text}")
