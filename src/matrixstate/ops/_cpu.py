"""What the compiled kernels of all ops share on their Python side."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from matrixstate.errors import ShapeError


def unsupported(device: str, dtype: torch.dtype) -> str | None:
    """Why the compiled kernels cannot run such inputs; None if they can."""
    if device != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return f"needs torch.float32 or torch.bfloat16 on cpu, got {dtype} on {device}"
    return None


def operator(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function of tensors as the operator matrixstate::`name` on the CPU, its schema from its annotations.

    As torch.library.custom_op does, which also imports the whole compiler at the first call: that takes seconds.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(f"matrixstate::{name}", schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(f"matrixstate::{name}", "cpu")(function)
        return function

    return register


def dense(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as the native side takes them: contiguous and without a graph."""
    return [None if tensor is None else tensor.detach().contiguous() for tensor in tensors]


def plain(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors contiguous and not lazily negated, which the dispatcher would else see to; mostly themselves."""
    return [None if tensor is None else tensor.resolve_neg().contiguous() for tensor in tensors]


def floats(*parameters: Tensor | None) -> list[Tensor | None]:
    """The same in float32, for parameters."""
    return plain(*(None if p is None else p.to(torch.float32) for p in parameters))


def call_checked(function: Callable[..., None], *arguments: Any) -> None:
    """Calls the native side outside of PyTorch's dispatcher. It checks what it is given, much faster than we could."""
    try:
        function(*arguments, torch.get_num_threads())
    except ValueError as error:
        raise ShapeError(str(error)) from None


def fresh(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An uninitialised dense tensor; the shape and dtype of `like` where none are given."""
    return torch.empty(shape or like.shape, dtype=dtype or like.dtype, device=like.device)


def no_second_derivative(op: str) -> Callable[..., Any]:
    """The backward of a backward operator that has none."""

    def refuse(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(f"{op}: backend cpu has no second derivatives; backend='reference' has")

    return refuse
