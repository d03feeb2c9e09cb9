"""Assertions of the one rule for "close enough", matrixstate.evaluation.closeness."""

from collections.abc import Sequence

import torch
from torch import Tensor

from matrixstate.evaluation.closeness import is_as_good


def assert_as_good_as(
    got: Tensor, plain: Tensor | Sequence[Tensor], exact: Tensor, what: str, *, typical: bool = False
) -> None:
    """Asserts that `got` errs from `exact` (float64) at most twice as far as `plain` (plain PyTorch, same dtype) does.

    The floor of 8 units in the last place of the largest value is for results where PyTorch happens to be exact.

    Args:
        got: the result to check, of any shape and dtype.
        plain: the result of plain PyTorch, or of several runs, of which the one with the larger error counts.
        exact: the same computed in float64.
        what: names the result in a failure.
        typical: compare root mean square errors instead of the largest; for long products, whose largest error is that
            of the one worst-conditioned step.
    """
    assert got.shape == exact.shape, f"{what}: {list(got.shape)}, not {list(exact.shape)}"
    runs = [plain] if isinstance(plain, Tensor) else plain
    assert all(got.dtype == run.dtype for run in runs), f"{what}: {got.dtype}, not {runs[0].dtype}"
    assert got.isfinite().all(), f"{what}: not finite"
    if not got.numel():
        return
    size = (lambda error: error.square().mean().sqrt()) if typical else (lambda error: error.abs().max())
    ours, *theirs = (size(result.double() - exact).item() for result in (got, *runs))
    unit = torch.finfo(got.dtype).eps * exact.abs().max().item()
    assert is_as_good(ours, theirs, unit), f"{what}: error {ours:.3g}, PyTorch's {max(theirs):.3g}, unit {unit:.3g}"


ROUNDING = {torch.float64: (1e-9, 1e-11), torch.float32: (3e-4, 1e-5)}  # rtol, atol


def assert_equal_to_rounding(got: Tensor, expected: Tensor, what: str) -> None:
    """Asserts that two results differ only by rounding, as from another order of summation. float64 or float32."""
    assert got.dtype == expected.dtype, f"{what}: {got.dtype}, {expected.dtype}"
    assert got.dtype in ROUNDING, f"{what}: {got.dtype}"
    rtol, atol = ROUNDING[got.dtype]
    torch.testing.assert_close(got, expected, rtol=rtol, atol=atol, msg=lambda text: f"{what}: {text}")
