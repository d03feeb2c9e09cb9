"""What the chunked forms of the linear recurrences share: cutting time into chunks, and products under decay.

In a chunk, c_t is the sum of the logarithms of the decays up to and with step t. A step j <= t is seen at t through
e^{c_t - c_j}, which is at most 1; but e^{c_t} and e^{-c_j} by themselves leave float32 once the sum passes 88. A scalar
decay is applied to the finished products. A decay per channel must be split between the factors: it is, block of steps
by block, around the block's start s, where both c_t - c_s and c_s - c_j are at most 0.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

BLOCK = 16  # steps within which a decay per channel is applied to every pair


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
    """[B, T, H, ...] -> [B, H, n, chunk, ...]: logarithms of decays summed up to and with each step of a chunk.

    What decays to zero in one step needs no larger number to say so, and a sum with it then still tells its neighbours'
    decays: a float32 of 1e6 no longer holds hundredths.
    """
    numbers = torch.finfo(log_decay.dtype)
    nothing = math.log(numbers.smallest_normal * numbers.eps) - 1  # e^nothing is zero
    return to_chunks(log_decay.clamp_min(nothing), chunk).cumsum(dim=3)


def seen(documents: Tensor | None, chunk: int, strict: bool, device: torch.device) -> Tensor:
    """[..., chunk, chunk] bool: which steps j a step t sees: j <= t (or <, if strict) of the same document.

    documents: [B, 1, n, chunk], how many resets lie before a step in its chunk, or None.
    """
    causal = torch.ones(chunk, chunk, dtype=torch.bool, device=device).tril(-1 if strict else 0)
    return causal if documents is None else causal & (documents[..., :, None] == documents[..., None, :])


def decayed_products(a: Tensor, b: Tensor, at_a: Tensor | None, at_b: Tensor | None, mask: Tensor) -> Tensor:
    """sum over channels of a_t e^{at_a[t] - at_b[j]} b_j, for the pairs of `mask`; zero elsewhere.

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
    """`decayed_products` of a block, every pair for itself; pairs with j > t may hold anything finite."""
    decay = (at_a[..., :, None, :] - at_b[..., None, :, :]).clamp_max(0).exp()
    return torch.einsum("...tk,...jk,...tjk->...tj", a, b, decay)
