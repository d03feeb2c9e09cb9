"""The regime of a product: how large it is, and whether anything but numbers is asked for."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

LEAST = 1 << 23
"""Multiply-adds from which on a product is large: it and its gradients take longer than the way to another library."""

INSIDE = ("_are_functorch_transforms_active", "_len_torch_dispatch_stack")
"""Functions of torch._C, private to it, that tell what is at work."""


def regime_of(x: Tensor, weight: Tensor) -> str:
    """ "large": numbers alone, and many of them; else "traced", "small", "transformed" or "unknown"."""
    if torch.compiler.is_compiling():
        return "traced"
    if x.numel() * weight.shape[0] < LEAST or not _fit(x, weight):  # what does not fit, PyTorch refuses in its words
        return "small"
    N, K = weight.shape
    if x.numel() < 128 * K or min(N, K) < 48:  # copies of narrow factors cost more than is gained
        return "small"
    if lacking():
        return "unknown"
    return "large" if _is_plain(x) and _is_plain(weight) and not _is_transformed() else "transformed"


def _fit(x: Tensor, weight: Tensor) -> bool:
    return weight.ndim == 2 and x.shape[-1] == weight.shape[1] and x.dtype == weight.dtype and x.device == weight.device


def lacking() -> list[str]:
    """What this release of PyTorch has no longer of its inside that `regime_of` asks."""
    names = [f"torch._C.{name}" for name in INSIDE if not hasattr(torch._C, name)]
    return names if hasattr(forward_ad, "_current_level") else [*names, "forward_ad._current_level"]


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is a dense tensor of no subclass, which could have a meaning of its own."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided


def _is_transformed() -> bool:
    """Whether autocast, torch.func, forward-mode differentiation or a mode that sees every operator is at work.

    They have rules for PyTorch's own products.
    """
    return (
        torch.is_autocast_enabled("cpu")
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
    )
