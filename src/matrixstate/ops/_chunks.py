"""What the chunked forms of the linear recurrences share: chunks of the sequence, and products under decay.

In a chunk, let c_t be the sum of the logarithms of the decays up to and including step t. What step j wrote reaches
step t >= j with the factor e^{c_t - c_j}, which is at most 1. The factors e^{c_t} and e^{-c_j} alone leave the range
of float32 once the sum passes 88. A scalar decay is therefore applied to the finished products. A decay per channel
stands inside the sum over channels and must be split between the two sides: it is split block by block of steps, at the
block's start s, where both c_t - c_s and c_s - c_j are at most 0.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 16  # steps within which a decay per channel is computed for every pair


def to_chunks(x: Tensor, chunk: int, fill: float = 0.0) -> Tensor:
    """[B, T, H, ...] -> [B, H, n, chunk, ...], T padded at its end with `fill`."""
    missing = -x.shape[1] % chunk
    if missing:
        x = pad(x.movedim(1, -1), (0, missing), value=fill).movedim(-1, 1)
    return x.unflatten(1, (-1, chunk)).movedim(3, 1)


def from_chunks(y: Tensor, length: int) -> Tensor:
    """[B, H, n, chunk, ...] -> [B, T, H, ...]."""
    return y.movedim(1, 3).flatten(1, 2)[:, :length]


def decay_sums(log_decay: Tensor, chunk: int) -> Tensor:
    """[B, T, H, ...] -> [B, H, n, chunk, ...]: logarithms of decays summed up to and including each step of a chunk."""
    return _running_sums(to_chunks(bounded(log_decay), chunk))


def bounded(log_decay: Tensor) -> Tensor:
    """Logarithms of decays clamped at one whose exponential is already zero.

    The decay is the same, and a sum with it still resolves the decays of the steps around it (a float32 near 1e6 has no
    hundredths, and minus infinity leaves nothing of any sum).
    """
    numbers = torch.finfo(log_decay.dtype)
    return log_decay.clamp_min(math.log(numbers.smallest_normal * numbers.eps) - 1)  # below the least subnormal number


def _running_sums(x: Tensor) -> Tensor:
    """[B, H, n, chunk, ...] -> the same: sums up to and including every step of a chunk."""
    if x.device.type == "cpu" or not torch.are_deterministic_algorithms_enabled():
        return x.cumsum(dim=3)
    # on a GPU cumsum of floating-point numbers is refused then, and so would its gradient be
    ones = x.new_ones(x.shape[3], x.shape[3])
    return x @ ones.triu() if x.ndim == 4 else ones.tril() @ x


def seen(documents: Tensor | None, chunk: int, strict: bool, device: torch.device) -> Tensor:
    """[..., chunk, chunk] bool: which steps j a step t sees: j <= t (or <, if strict) of the same document.

    documents: [B, 1, n, chunk], the number of resets in the chunk up to and including a step, or None.
    """
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=device).tril(-1 if strict else 0)
    return causal if documents is None else causal & (documents[..., :, None] == documents[..., None, :])


def decayed_products(a: Tensor, b: Tensor, at_a: Tensor | None, at_b: Tensor | None, mask: Tensor) -> Tensor:
    """sum over channels of a_t e^{at_a[t] - at_b[j]} b_j for the pairs (t, j) of `mask`; zero elsewhere.

    Args:
        a, b: [..., C, K].
        at_a, at_b: sums of logarithms of decays, [..., C] for one decay, [..., C, K] for one per channel, or None for
            none. Decreasing along C, and at_a[t] <= at_b[j] for every pair of the mask.
        mask: [..., C, C] bool, True at most for j <= t.

    Returns:
        [..., C, C]. Cost: C²·K multiply-adds, and C·16·K exponentials for decays per channel.
    """
    if at_a is None or at_b is None:
        return (a @ b.mT).masked_fill(~mask, 0)
    if at_a.ndim == a.ndim - 1:
        decay = (at_a[..., :, None] - at_b[..., None, :]).masked_fill(~mask, float("-inf")).exp()
        return (a @ b.mT) * decay
    C = a.shape[-2]
    rows = []
    for begin in range(0, C, BLOCK):
        end = min(begin + BLOCK, C)
        own = _pairs(a[..., begin:end, :], b[..., begin:end, :], at_a[..., begin:end, :], at_b[..., begin:end, :])
        earlier = a.new_zeros(*own.shape[:-1], 0)
        if begin:
            start = at_b[..., begin - 1, None, :]  # the decay up to the last step before the block
            left = a[..., begin:end, :] * (at_a[..., begin:end, :] - start).clamp_max(0).exp()
            right = b[..., :begin, :] * (start - at_b[..., :begin, :]).exp()
            earlier = left @ right.mT
        rows.append(pad(torch.cat([earlier, own], dim=-1), (0, C - end)))
    return torch.cat(rows, dim=-2).masked_fill(~mask, 0)


def _pairs(a: Tensor, b: Tensor, at_a: Tensor, at_b: Tensor) -> Tensor:
    """`decayed_products` within a block, pair by pair.

    Pairs with j > t are masked later; the clamp keeps their exponentials finite.
    """
    decay = (at_a[..., :, None, :] - at_b[..., None, :, :]).clamp_max(0).exp()
    return torch.einsum("...tk,...jk,...tjk->...tj", a, b, decay)
