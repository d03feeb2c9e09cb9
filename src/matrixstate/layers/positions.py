"""Where each step stands in its document, and the rotations that tell attention."""

import torch
from torch import Tensor

from matrixstate.ops import accumulation_dtype


def count_positions(start: Tensor, length: int, mask: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """The position of every step in its document, and that of the step after the last.

    Args:
        start: [B] int64, the position of the first step.
        length: T.
        mask: [B, T] bool or None, True at real steps; padded steps do not count.
        reset: [B, T] bool or None, True where a document starts, real steps only.

    Returns:
        position [B, T] int64, and the next call's start [B].
    """
    if mask is None and reset is None:
        return start[:, None] + torch.arange(length, device=start.device), start + length
    if mask is None:
        ordinal = torch.arange(length, device=start.device).expand(start.shape[0], length)
        total = torch.full_like(start, length)
    else:
        ordinal = mask.long().cumsum(dim=1) - 1
        total = mask.sum(dim=1)
    began = -start[:, None]  # the ordinal at which the current document started
    if reset is not None and length:
        began = torch.where(reset, ordinal, began).cummax(dim=1).values
    return (ordinal - began).clamp_min(0), total - began[:, -1]


def rotate(x: Tensor, position: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary positions: channel pairs (i, i + K/2) turn by position · base^{-2i/K}. Source: Su et al. 2021.

    x [B, T, H, K], K even; position [B, T].
    """
    half, dtype = x.shape[-1] // 2, accumulation_dtype(x.dtype)
    rate = base ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    angle = (position.to(dtype)[..., None] * rate)[:, :, None]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def fade(x: Tensor, position: Tensor, sign: int) -> Tensor:
    """xPos: the pairs of `rotate` scaled by z_i^{sign · position/512}, so that q·k fades with distance.

    z_i = (2i/K + 0.4)/1.4. Queries take sign 1, keys -1. float32 holds up to about 30,000 steps per document.
    Source: Sun et al. 2022, "A Length-Extrapolatable Transformer".
    """
    half, dtype = x.shape[-1] // 2, accumulation_dtype(x.dtype)
    share = (torch.arange(half, device=x.device, dtype=dtype) / half + 0.4) / 1.4
    factor = share ** (sign * position.to(dtype)[..., None, None] / 512)
    return x * torch.cat([factor, factor], dim=-1).to(x.dtype)
