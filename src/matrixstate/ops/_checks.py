"""What every op checks and promises: shapes that errors spell out, and accumulation in at least float32."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from matrixstate.errors import ShapeError


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32: the dtype of states, decays and sums."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def full_precision(like: Tensor) -> AbstractContextManager:
    """Inside, autocast does not lower the precision of an op's own products."""
    return torch.autocast(like.device.type, enabled=False)


def expect_floating(op: str, name: str, tensor: Tensor, letters: str) -> None:
    """`tensor` must be floating point with one axis per word of `letters`, e.g. "B T H D D"."""
    axes = letters.split()
    if tensor.ndim != len(axes) or not tensor.is_floating_point():
        raise ShapeError(
            f"{op}: {name} must be floating point [{', '.join(axes)}], got {tensor.dtype} {list(tensor.shape)}"
        )


def expect(
    op: str, name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
) -> None:
    """`tensor` must have `shape`, `dtype` (default: that of `like`) and the device of `like`."""
    dtype = dtype or like.dtype
    if tuple(tensor.shape) != tuple(shape) or tensor.dtype != dtype or tensor.device != like.device:
        raise ShapeError(
            f"{op}: {name} must be {dtype} {list(shape)} on {like.device}, "
            f"got {tensor.dtype} {list(tensor.shape)} on {tensor.device}"
        )


def expect_reset(op: str, reset: Tensor | None, like: Tensor, name: str = "reset") -> None:
    """`reset` (or `mask`) must be bool [B, T] on the device of `like`, whose first axes are B and T."""
    if reset is not None:
        expect(op, name, reset, tuple(like.shape[:2]), like, torch.bool)
