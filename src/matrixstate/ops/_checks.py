"""What all ops check, in errors that name function, argument, expected and got; and the precision in which they sum."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from matrixstate.errors import ShapeError

Run = TypeVar("Run", bound=Callable[..., Any])


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """`dtype` but at least float32 (complex64 where complex): the dtype of states, decays and sums."""
    return torch.promote_types(dtype, torch.float32)


def full_precision(like: Tensor) -> AbstractContextManager:
    """A context in which autocast does not lower the precision of an op's own products."""
    if not torch.amp.is_autocast_available(like.device.type):  # as on "meta"
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def widened(run: Run) -> Run:
    """Lets a backend's function compute in the accumulation dtype of its first argument, outside autocast.

    Its floating-point tensors are converted to that dtype (real ones stay real beside a complex first argument), and
    its first result to the dtype of the first argument; further results (states) stay in the accumulation dtype.
    """

    @wraps(run)
    def wide(first: Tensor, *rest: Any) -> tuple[Any, ...]:
        dtype = accumulation_dtype(first.dtype)
        with full_precision(first):
            y, *others = run(first.to(dtype), *(_to(dtype, argument) for argument in rest))
        return y.to(first.dtype), *others

    return wide  # type: ignore[return-value]


def _to(dtype: torch.dtype, argument: Any) -> Any:
    if not isinstance(argument, Tensor) or not (argument.is_floating_point() or argument.is_complex()):
        return argument
    if dtype.is_complex and not argument.is_complex():
        dtype = torch.float64 if dtype == torch.complex128 else torch.float32
    return argument.to(dtype)


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


def expect_optional(op: str, name: str, tensor: Tensor | None, like: Tensor, *shapes: tuple[int, ...]) -> None:
    """`tensor` must be None or as `expect_any` has it."""
    if tensor is not None:
        expect_any(op, name, tensor, like, *shapes)


def expect_flags(op: str, like: Tensor, **flags: Tensor | None) -> None:
    """`reset` and `mask` must be None or bool [B, T] on the device of `like`, whose first axes are B and T."""
    for name, flag in flags.items():
        if flag is not None:
            expect(op, name, flag, tuple(like.shape[:2]), like, torch.bool)


def expect_clip(op: str, grad_clip: float | None) -> None:
    """`grad_clip` must be positive or None."""
    if grad_clip is not None and not grad_clip > 0:
        raise ShapeError(f"{op}: grad_clip must be positive or None, got {grad_clip}")


def expect_pair(op: str, state: Any, kind: str) -> None:
    """`state` must be a tuple of two parts; `kind` says which, with its article."""
    if not isinstance(state, tuple) or len(state) != 2:
        raise ShapeError(f"{op}: state must be {kind}, got {type(state).__name__}")


def first_state(op: str, state: Tensor | None, shape: tuple[int, ...], like: Tensor, name: str = "state") -> Tensor:
    """The given state, which must have `shape`, the accumulation dtype and the device of `like`; zeros for None."""
    dtype = accumulation_dtype(like.dtype)
    if state is None:
        return like.new_zeros(shape, dtype=dtype)
    expect(op, name, state, shape, like, dtype)
    return state


def identities(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Identity matrices of `shape` [..., D, D] in the accumulation dtype: the state before a product of matrices."""
    identity = torch.eye(shape[-1], dtype=accumulation_dtype(like.dtype), device=like.device)
    return identity.expand(shape)


def _fits(tensor: Tensor, shapes: tuple[tuple[int, ...], ...], like: Tensor) -> bool:
    return isinstance(tensor, Tensor) and tuple(tensor.shape) in shapes and tensor.device == like.device


def _found(tensor: Tensor, like: Tensor | None = None) -> str:
    """What was given in place of the expected tensor; with its device where `like` is given."""
    if not isinstance(tensor, Tensor):
        return repr(tensor)
    return f"{tensor.dtype} {list(tensor.shape)}" + ("" if like is None else f" on {tensor.device}")
