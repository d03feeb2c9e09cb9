"""Five orders in which to compute all prefixes of an associative product.

Elements are tuples of tensors that share axes 0 (batch) and 1 (sequence, length T). `combine(left, right)` takes two
such tuples of equal length along axis 1 and returns left·right, elementwise along the sequence. Each schedule returns
the inclusive prefixes e_1, e_1·e_2, ..., as a new tuple; its inputs are not written.

Depth is the number of calls of `combine` that depend on one another, work the number of element pairs combined.

| schedule       | depth                | work                  | source                          |
|----------------|----------------------|-----------------------|---------------------------------|
| sequential     | T - 1                | T - 1                 | the definition                  |
| hillis_steele  | ceil(log2 T)         | about T log2 T        | Hillis & Steele 1986            |
| sklansky       | ceil(log2 T)         | about (T/2) log2 T    | Sklansky 1960                   |
| brent_kung     | about 2 log2 T       | about 2 T             | Brent & Kung 1982               |
| chunked        | about 2 sqrt(T)      | about 2 T             | two passes over sqrt(T) chunks  |
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Elements = tuple[Tensor, ...]
Combine = Callable[[Elements, Elements], Elements]


def _take(elements: Elements, index: slice | Tensor) -> Elements:
    return tuple(e[:, index] for e in elements)


def _put(elements: Elements, index: slice | Tensor, values: Elements) -> None:
    for e, value in zip(elements, values, strict=True):
        e[:, index] = value


def _copy(elements: Elements) -> Elements:
    return tuple(e.clone() for e in elements)


def sequential(combine: Combine, elements: Elements) -> Elements:
    """One after another."""
    out = _copy(elements)
    for t in range(1, out[0].shape[1]):
        now = slice(t, t + 1)
        _put(out, now, combine(_take(out, slice(t - 1, t)), _take(out, now)))
    return out


def hillis_steele(combine: Combine, elements: Elements) -> Elements:
    """Every element is multiplied by the one `stride` before it, for doubling strides."""
    out = _copy(elements)
    length, stride = out[0].shape[1], 1
    while stride < length:
        _put(out, slice(stride, None), combine(_take(out, slice(None, -stride)), _take(out, slice(stride, None))))
        stride *= 2
    return out


def sklansky(combine: Combine, elements: Elements) -> Elements:
    """The right half of every block is multiplied by the last prefix of its left half, for doubling blocks."""
    out = _copy(elements)
    length, half = out[0].shape[1], 1
    position = torch.arange(length, device=out[0].device)
    while half < length:
        right = position[(position // half) % 2 == 1]
        _put(out, right, combine(_take(out, (right // half) * half - 1), _take(out, right)))
        half *= 2
    return out


def brent_kung(combine: Combine, elements: Elements) -> Elements:
    """A tree of products upwards, then the missing prefixes downwards."""
    out = _copy(elements)
    length = out[0].shape[1]
    strides = [2**level for level in range(max(length - 1, 0).bit_length())]
    sweeps = [(stride, 2 * stride - 1) for stride in strides] + [(stride, 3 * stride - 1) for stride in strides[::-1]]
    for stride, first in sweeps:
        if first < length:
            right, left = slice(first, None, 2 * stride), slice(first - stride, length - stride, 2 * stride)
            _put(out, right, combine(_take(out, left), _take(out, right)))
    return out


def chunked(combine: Combine, elements: Elements, chunk: int | None = None) -> Elements:
    """All chunks at once from left to right, then the chunks' ends one after another, then everything else at once."""
    out = _copy(elements)
    length = out[0].shape[1]
    chunk = chunk or max(1, math.isqrt(length))
    for offset in range(1, chunk):
        right, left = slice(offset, None, chunk), slice(offset - 1, length - 1, chunk)
        if offset < length:
            _put(out, right, combine(_take(out, left), _take(out, right)))
    for end in range(2 * chunk - 1, length, chunk):
        now = slice(end, end + 1)
        _put(out, now, combine(_take(out, slice(end - chunk, end - chunk + 1)), _take(out, now)))
    position = torch.arange(length, device=out[0].device)
    rest = position[(position >= chunk) & (position % chunk != chunk - 1)]
    if rest.numel():
        _put(out, rest, combine(_take(out, (rest // chunk) * chunk - 1), _take(out, rest)))
    return out


SCHEDULES: dict[str, Callable[[Combine, Elements], Elements]] = {
    "sequential": sequential,
    "hillis_steele": hillis_steele,
    "sklansky": sklansky,
    "brent_kung": brent_kung,
    "chunked": chunked,
}
