"""The one rule for "close enough", used by `matrixstate check` and by the tests.

A result may err from float64 at most twice as far as plain PyTorch does in the same dtype. Plain PyTorch is run more
than once, on inputs that differ by one unit in the last place, and its larger error counts: where results hinge on a
few roundings, one run may be exact by luck, and which one depends on the processor.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

FLOOR = 8.0  # in units in the last place of the largest value: what any order of summation may differ by


def is_as_good(error: float, plain: Sequence[float], unit: float) -> bool:
    """Whether `error` is allowed beside the errors of plain PyTorch.

    Args:
        error: the largest absolute error from float64.
        plain: the same of each run of plain PyTorch.
        unit: one unit in the last place of the largest value, in the units of the errors.
    """
    return error <= 2 * max(plain) + FLOOR * unit


def nudge(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """A copy with every number one unit in the last place up or down, at random; 0 and 1 stay, as do integers.

    A gate of 0 or 1 keeps nothing or everything exactly, which its neighbours do not.
    """
    if not tensor.is_floating_point():
        return tensor
    up = (torch.rand(tensor.shape, generator=generator) < 0.5).to(tensor.device)
    moved = torch.nextafter(tensor, torch.where(up, torch.inf, -torch.inf).to(tensor))
    return torch.where((tensor == 0) | (tensor == 1), tensor, moved)
