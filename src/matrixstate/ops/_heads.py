"""Heads that several others share: a tensor with G heads, G a divisor of H, serves contiguous groups of H/G heads."""

import torch
from torch import Tensor

from matrixstate.errors import ShapeError


def most_heads(op: str, **heads: int) -> int:
    """H, the largest of the tensors' head counts, which all others must divide."""
    H = max(heads.values())
    if any(n == 0 or H % n for n in heads.values()):
        counts = ", ".join(f"{name} {n}" for name, n in heads.items())
        raise ShapeError(f"{op}: every head count must divide the largest, {H}, got {counts}")
    return H


def share(tensor: Tensor, axis: int, heads: int) -> Tensor:
    """`tensor` with each head of `axis` repeated for its group, so that there are `heads`: head n is n // (H/G)."""
    group = heads // tensor.shape[axis]
    return tensor if group == 1 else torch.repeat_interleave(tensor, group, dim=axis)
