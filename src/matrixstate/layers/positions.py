"""Positions of steps in their documents, rotary position embeddings and xPos."""

import torch
from torch import Tensor

from matrixstate.ops import accumulation_dtype


def count_positions(start: Tensor, length: int, mask: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """The position of every step in its document, counted from 0.

    Args:
        start: [B] int64, the position of the first step: what the last call returned, or zeros.
        length: T.
        mask: [B, T] bool or None, True at real steps. Padded steps are not counted.
        reset: [B, T] bool or None, True where a document starts. False at padded steps.

    Returns:
        position: [B, T] int64. At padded steps it is unspecified, but at least 0.
        start: [B] int64, of the next call.
    """
    if mask is None and reset is None:
        return start[:, None] + torch.arange(length, device=start.device), start + length
    if mask is None:
        ordinal = torch.arange(length, device=start.device).expand(start.shape[0], length)
        total = torch.full_like(start, length)
    else:
        ordinal = mask.long().cumsum(dim=1) - 1  # of real steps in this call; -1 before the first
        total = mask.sum(dim=1)
    origin = -start[:, None]  # the ordinal of the first step of the current document
    if reset is not None and length:
        origin = torch.where(reset, ordinal, origin).cummax(dim=1).values
    return (ordinal - origin).clamp_min(0), total - origin[:, -1]


def average_steps_attended(length: int, window: int | None) -> float:
    """Steps that a query of causal attention attends to, its own included, on average over a sequence of `length`."""
    most = min(length, window or length)
    return most - most * (most - 1) / (2 * max(length, 1))  # the first window - 1 queries attend to fewer


def rotate(x: Tensor, position: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary position embedding: rotates the channel pair (i, i + K/2) by the angle position · base^{-2i/K}.

    Args:
        x: [B, T, H, K] floating point, K even.
        position: [B, T] int64.
        base: of the geometric sequence of rates.

    Returns:
        [B, T, H, K], dtype of x. Angles are computed in at least float32.

    Source: Su et al. 2021, "RoFormer".
    """
    cos, sin = waves(x, position, base)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def waves(x: Tensor, position: Tensor, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of position · base^{-2i/K} for i < K/2, both [B, T, 1, K/2]; arguments as of `rotate`."""
    half, dtype = x.shape[-1] // 2, accumulation_dtype(x.dtype)
    rate = base ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    angle = (position.to(dtype)[..., None] * rate)[:, :, None]
    return angle.cos().to(x.dtype), angle.sin().to(x.dtype)


def xpos_scale(x: Tensor, position: Tensor, sign: int) -> Tensor:
    """xPos: scales the channel pair i of `rotate` by z_i^{sign · position/512} with z_i = (2i/K + 0.4)/1.4.

    Products of queries and keys then decay with their distance.

    Args:
        x: [B, T, H, K] floating point, K even, as `rotate` returned it.
        position: [B, T] int64. Beyond about 35,000 the factors exceed the range of float32.
        sign: 1 for queries, -1 for keys.

    Source: Sun et al. 2022, "A Length-Extrapolatable Transformer".
    """
    half, dtype = x.shape[-1] // 2, accumulation_dtype(x.dtype)
    base = (torch.arange(half, device=x.device, dtype=dtype) / half + 0.4) / 1.4
    factor = base ** (sign * position.to(dtype)[..., None, None] / 512)
    return x * torch.cat([factor, factor], dim=-1).to(x.dtype)
