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
    if not isinstance(tensor, Tensor) or tensor.ndim != len(axes) or not tensor.is_floating_point():
        raise ShapeError(f"{op}: {name} must be floating point [{', '.join(axes)}], got {_found(tensor)}")


def expect(
    op: str, name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None
) -> None:
    """`tensor` must have `shape`, `dtype` (default: that of `like`) and the device of `like`."""
    dtype = dtype or like.dtype
    if not _fits(tensor, (shape,), like) or tensor.dtype != dtype:
        raise ShapeError(f"{op}: {name} must be {dtype} {list(shape)} on {like.device}, got {_found(tensor, like)}")


def expect_any(op: str, name: str, tensor: Tensor, like: Tensor, *shapes: tuple[int, ...]) -> None:
    """`tensor` must have one of the shapes, any floating-point dtype, and the device of `like`."""
    if not _fits(tensor, shapes, like) or not tensor.is_floating_point():
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ShapeError(f"{op}: {name} must be floating point {wanted} on {like.device}, got {_found(tensor, like)}")


def _fits(tensor: Tensor, shapes: tuple[tuple[int, ...], ...], like: Tensor) -> bool:
    return isinstance(tensor, Tensor) and tuple(tensor.shape) in shapes and tensor.device == like.device


def _found(tensor: Tensor, like: Tensor | None = None) -> str:
    """What stands in the place of a tensor; with its device where `like` is given."""
    if not isinstance(tensor, Tensor):
        return repr(tensor)
    return f"{tensor.dtype} {list(tensor.shape)}" + ("" if like is None else f" on {tensor.device}")


def expect_reset(op: str, reset: Tensor | None, like: Tensor, name: str = "reset") -> None:
    """`reset` (or `mask`) must be bool [B, T] on the device of `like`, whose first axes are B and T."""
    if reset is not None:
        expect(op, name, reset, tuple(like.shape[:2]), like, torch.bool)
