"""The linear recurrence by any schedule, with a backward pass for which only the decays and h are saved.

README.md derives both passes. Nothing is divided by and no logarithm is taken: decays may be zero, negative or complex.
"""

import math

import torch
from torch import Tensor

from matrixstate.ops._checks import full_precision
from matrixstate.ops.matrix.schedules import SCHEDULES, Elements


def scan(x: Tensor, a: Tensor, state: Tensor, reset: Tensor | None, method: str) -> Tensor:
    """x [B,T,...], a [B,T,...] or [...] with size 1 where it is shared, state [B,...] -> h [B,T,...]. T >= 1.

    `method` is one of `SCHEDULES`. Any order of derivatives.
    """
    return _Scan.apply(x, a, state, reset, method)


class _Scan(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, a, state, reset, method):
        run = by_chunks if method == "chunked" else _by_schedule
        return run(x, cut(a, reset, x), state, method)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, a, state, reset, ctx.method = inputs
        ctx.save_for_backward(a, state, reset, output)

    @staticmethod
    def backward(ctx, dh):
        a, state, reset, h = ctx.saved_tensors
        with full_precision(h):  # autocast may be on where backward is called
            passed = cut(a, reset, h)
            g = _adjoint(passed, dh, ctx.method)
            da = dstate = None
            if ctx.needs_input_grad[1]:
                before = torch.cat([state[:, None], h[:, :-1]], dim=1)
                before = before if reset is None else before.masked_fill(_wide(reset, h), 0)
                da = before.conj() * g
                da = (da if a.is_complex() else da.real).sum_to_size(a.shape)
            if ctx.needs_input_grad[2]:
                dstate = (passed[:, 0] if passed.ndim == h.ndim else passed).conj() * g[:, 0]
        return g, da, dstate, None, None


def cut(a: Tensor, reset: Tensor | None, x: Tensor) -> Tensor:
    """The decays with zeros at resets; then they are given for every step."""
    if reset is None:
        return a
    a = a if a.ndim == x.ndim else a.expand(*x.shape[:2], *a.shape)
    return a.masked_fill(_wide(reset, x), 0)


def _wide(reset: Tensor, x: Tensor) -> Tensor:
    """reset [B, T] with the axes of x."""
    return reset.view(*reset.shape, *[1] * (x.ndim - 2))


def _adjoint(a: Tensor, dh: Tensor, method: str) -> Tensor:
    """g_t = dh_t + conj(a_{t+1}) g_{t+1}: the scan over the flipped sequence, from a state of zeros (README.md)."""
    if a.ndim == dh.ndim:
        a = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], dim=1).flip(1)
    return _Scan.apply(dh.flip(1), a.conj(), torch.zeros_like(dh[:, 0]), None, method).flip(1)


def by_chunks(x: Tensor, a: Tensor, state: Tensor, method: str = "chunked") -> Tensor:
    """All chunks at once from zeros, step by step; then the states before the chunks; then both together.

    Each of the sqrt(T) steps is one operation on every chunk. With P_t the product of the decays of a chunk up to step
    t, and l_t the state that starts from zeros, h_t = l_t + P_t h_before.
    """
    T = x.shape[1]
    chunk = max(1, math.isqrt(T))
    steps = _split(x, chunk).unbind(dim=2)
    decays = _split(a, chunk).unbind(dim=2) if a.ndim == x.ndim else (a,) * chunk
    local, products = [steps[0]], [decays[0]]
    for x_t, a_t in zip(steps[1:], decays[1:], strict=True):
        local.append(x_t + a_t * local[-1])
        products.append(products[-1] * a_t)
    before = [state]
    ends = products[-1].unbind(dim=1) if a.ndim == x.ndim else (products[-1],) * local[-1].shape[1]
    for l_t, p_t in zip(local[-1].unbind(dim=1), ends, strict=True):
        before.append(l_t + p_t * before[-1])
    carried = torch.stack(before[:-1], dim=1)[:, :, None]  # [B, chunks, 1, ...]
    h = torch.stack(local, dim=2) + torch.stack(products, dim=2 if a.ndim == x.ndim else 0) * carried
    return h.flatten(1, 2)[:, :T]


def _split(x: Tensor, chunk: int) -> Tensor:
    """[B, T, ...] -> [B, chunks, chunk, ...], T padded at its end with zeros."""
    missing = -x.shape[1] % chunk
    if missing:
        x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
    return x.unflatten(1, (-1, chunk))


def _by_schedule(x: Tensor, a: Tensor, state: Tensor, method: str) -> Tensor:
    """The maps h -> a h + x composed; the state is put into the first, so that every prefix is the h after its step."""
    a = a if a.ndim == x.ndim else a.expand(1, x.shape[1], *a.shape)
    elements = a, torch.cat([x[:, :1] + a[:, :1] * state[:, None], x[:, 1:]], dim=1)
    return SCHEDULES[method](_compose, elements)[1]


def _compose(left: Elements, right: Elements) -> Elements:
    return left[0] * right[0], right[0] * left[1] + right[1]


def convolution(x: Tensor, a: Tensor, state: Tensor) -> Tensor:
    """h_t = sum over j <= t of a^{t-j} x_j, plus a^{t+1} h_0, for a constant decay: by the FFT, padded to 2T steps."""
    T = x.shape[1]
    powers = _powers(a, T + 1).to(x.dtype)
    forward, inverse = (torch.fft.fft, torch.fft.ifft) if x.is_complex() else (torch.fft.rfft, torch.fft.irfft)
    spectrum = forward(x, n=2 * T, dim=1) * forward(powers[:T], n=2 * T, dim=0)
    return inverse(spectrum, n=2 * T, dim=1)[:, :T] + powers[1:] * state[:, None]


def _powers(a: Tensor, count: int) -> Tensor:
    """a^0 ... a^(count-1) [count, ...], by doubling, in double precision: a^t has t times the relative error of a."""
    square = a.to(torch.complex128 if a.is_complex() else torch.float64)[None]
    powers = torch.ones_like(square)
    for _ in range((count - 1).bit_length()):
        powers, square = torch.cat([powers, powers * square]), square * square
    return powers[:count]
