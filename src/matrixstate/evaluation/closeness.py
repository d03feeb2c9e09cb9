"""The criterion of numerical closeness, used by `matrixstate check` and by the tests.

The error of a result, measured against float64, may be at most twice that of plain PyTorch in the same dtype. Plain
PyTorch runs several times, on inputs that differ by one unit in the last place, and its largest error counts: where a
result depends on few roundings, a single run may be exact by chance, and whether it is depends on the processor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = 8.0  # units in the last place of the largest value, by which orders of summation may differ


def is_as_good(error: float, plain: Sequence[float], unit: float) -> bool:
    """Whether `error` is at most twice the largest of `plain`, plus 8 units.

    Args:
        error: the largest absolute difference from float64.
        plain: that of each run of plain PyTorch.
        unit: one unit in the last place of the largest value, on the scale of the errors.
    """
    return error <= 2 * max(plain) + FLOOR * unit


def nudge(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A copy with every number moved to the next larger or smaller one, at random.

    0 and 1 are not moved, for as gates they have an exact meaning that their neighbours do not have; nor are integers.
    """
    if not tensor.is_floating_point():
        return tensor
    up = (torch.rand(tensor.shape, generator=generator, device=generator.device) < 0.5).to(tensor.device)
    moved = torch.nextafter(tensor, torch.where(up, torch.inf, -torch.inf).to(tensor))
    return torch.where((tensor == 0) | (tensor == 1), tensor, moved)
