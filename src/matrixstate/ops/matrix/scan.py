"""The matrix scans by any schedule, with a backward pass for which only the inputs and the states are saved.

The carried state is a pair (m, e) with H = m·2^e. The plain scan has no e; the scaled scan moves powers of two from
m to e, which changes the exponent field of floating-point numbers alone and so rounds nothing. README.md derives both
passes.
"""

import math

import torch
from torch import Tensor

from matrixstate.ops._checks import full_precision
from matrixstate.ops.matrix import definition
from matrixstate.ops.matrix.schedules import SCHEDULES, Combine, Elements


def scan(x: Tensor, v: Tensor | None, state: Tensor, reset: Tensor | None, method: str) -> Tensor:
    """x [B,T,H,D,D], v [B,T,H,R,D] or None, state [B,H,R,D] -> h [B,T,H,R,D]. T >= 1. Any order of derivatives."""
    return _Scan.apply(x, v, state, None, reset, method)[0]


def scaled_scan(x: Tensor, state: Tensor, exponent: Tensor, reset: Tensor | None, method: str) -> tuple[Tensor, Tensor]:
    """x [B,T,H,D,D], state·2^exponent with state [B,H,R,D] and exponent [B,H] int32 -> m [B,T,H,R,D], e [B,T,H].

    T >= 1. Any order of derivatives; the split of H into m and e is held constant.
    """
    return _Scan.apply(x, None, state, exponent, reset, method)


def normalised(m: Tensor) -> tuple[Tensor, Tensor]:
    """m [..., R, D] as h of norm sqrt(D) and its size: m = size·h; zeros stay zeros."""
    size = torch.linalg.matrix_norm(m).clamp_min(torch.finfo(m.dtype).tiny) / math.sqrt(m.shape[-1])
    return m / size[..., None, None], size


def log_scales(size: Tensor, exponent: Tensor) -> Tensor:
    """log(size·2^exponent), in the dtype of `size`."""
    return exponent.to(size.dtype) * math.log(2) + size.log()


class _Scan(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, v, state, exponent, reset, method):
        run = _sequential if method == "sequential" else _parallel
        return run(x, v, state, exponent, reset, method)

    @staticmethod
    def setup_context(ctx, inputs, output):
        (x, v, state, exponent, reset, method), (m, e) = inputs, output
        shift = None
        if exponent is not None and e is not None:
            # m_t = m_{t-1} (x_t 2^shift_t) is the product that the forward pass formed, see README.md
            before = torch.cat([exponent[:, None], e[:, :-1]], dim=1)
            shift = (before if reset is None else before.masked_fill(reset[..., None], 0)) - e
            ctx.mark_non_differentiable(e)
        ctx.save_for_backward(x, state, m, shift, reset)
        ctx.method, ctx.affine = method, v is not None

    @staticmethod
    def backward(ctx, dm, _):
        x, state, m, shift, reset = ctx.saved_tensors
        with full_precision(x):  # autocast may be on where backward is called
            formed = x if shift is None else _times_power(x, shift)
            before = torch.cat([state[:, None], m[:, :-1]], dim=1)
            if reset is not None:
                before = torch.where(_wide(reset), _start(state, ctx.affine)[:, None], before)
            g = _adjoint(formed, dm, reset, ctx.method)
            dx = dstate = None
            if ctx.needs_input_grad[0]:
                dx = before.mT @ g
                dx = dx if shift is None else _times_power(dx, shift)
            if ctx.needs_input_grad[2]:
                dstate = g[:, 0] @ formed[:, 0].mT
                dstate = dstate if reset is None else dstate.masked_fill(_wide(reset)[:, 0], 0)
        return dx, g if ctx.affine else None, dstate, None, None, None


def _adjoint(x: Tensor, dm: Tensor, reset: Tensor | None, method: str) -> Tensor:
    """g_t = dm_t + g_{t+1} x_{t+1}ᵀ, zero past a reset: an affine matrix scan over the flipped sequence (README.md).

    The last step has no successor: it gets x = 0 and a reset, so that g_T = dm_T.
    """
    shifted = torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], dim=1).mT.flip(1)
    cut = None if reset is None else torch.cat([reset[:, 1:], torch.ones_like(reset[:, :1])], dim=1).flip(1)
    g, _ = _Scan.apply(shifted, dm.flip(1), torch.zeros_like(dm[:, 0]), None, cut, method)
    return g.flip(1)


def _wide(reset: Tensor) -> Tensor:
    """reset [B, T] with the axes of a sequence of matrices."""
    return reset[:, :, None, None, None]


def _start(state: Tensor, affine: bool) -> Tensor:
    """What a reset puts in place of the state: zeros where something is added at every step, else the identity."""
    if affine:
        return torch.zeros_like(state)
    return torch.eye(state.shape[-1], dtype=state.dtype, device=state.device).expand_as(state)


def _times_power(m: Tensor, k: Tensor) -> Tensor:
    """m [..., R, D] times 2^k, k [...] int32, exactly. Not torch.ldexp(m, k): its gradient is zero for negative k."""
    return m * torch.ldexp(torch.ones_like(k, dtype=m.dtype), k)[..., None, None]


def _rescale(m: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """The same m·2^e with the largest entry of m in [1/2, 1).

    The factor is a power of two, so nothing is rounded; the clamp keeps it a normal number in float32.
    """
    moved = torch.frexp(m.abs().amax(dim=(-2, -1))).exponent.clamp(-126, 126)
    return _times_power(m, -moved), e + moved


def _sequential(x, v, state, exponent, reset, method):
    start = state if reset is None else _start(state, v is not None)
    if exponent is None:
        return definition.matrix_scan(x, v, state, reset, start), None
    m, e, out = state, exponent, []
    for t in range(x.shape[1]):
        if reset is not None:
            m = torch.where(reset[:, t, None, None, None], start, m)
            e = e.masked_fill(reset[:, t, None], 0)
        m, e = _rescale(m @ x[:, t], e)
        out.append((m, e))
    m, e = (torch.stack(part, dim=1) for part in zip(*out, strict=True))
    return m, e


def _parallel(x, v, state, exponent, reset, method):
    """The first element is multiplied by the state, so that every prefix of the product is the state after its step."""
    if v is None and state.shape[-2] != state.shape[-1]:
        v = torch.zeros(*x.shape[:3], *state.shape[-2:], dtype=x.dtype, device=x.device)
    first = state if reset is None else torch.where(_wide(reset)[:, 0], _start(state, v is not None), state)
    first = first[:, None] @ x[:, :1]
    if exponent is not None:
        began = exponent if reset is None else exponent.masked_fill(reset[:, :1], 0)
        first, began = _rescale(first, began[:, None])
        e = torch.cat([began, torch.zeros(*x.shape[:3], dtype=torch.int32, device=x.device)[:, 1:]], dim=1)
        combine, elements = _scaled_product, (torch.cat([first, x[:, 1:]], dim=1), e)
        if reset is not None:  # the state after a document's first step is no product, but an element as it is
            elements = _rescale(*elements)
    elif v is None:
        combine, elements = _product, (torch.cat([first, x[:, 1:]], dim=1),)
    else:
        combine, elements = _affine, (x, torch.cat([first + v[:, :1], v[:, 1:]], dim=1))
    if reset is not None:
        combine, elements = _segmented(combine), (*elements, reset)
    out = SCHEDULES[method](combine, elements)
    if exponent is not None:
        return out[0], out[1]
    return out[0 if v is None else 1], None


def _product(left: Elements, right: Elements) -> Elements:
    return (left[0] @ right[0],)


def _affine(left: Elements, right: Elements) -> Elements:
    """The composition of affine maps: (A, b) is h -> h A + b."""
    return left[0] @ right[0], left[1] @ right[0] + right[1]


def _scaled_product(left: Elements, right: Elements) -> Elements:
    return _rescale(left[0] @ right[0], left[1] + right[1])


def _segmented(combine: Combine) -> Combine:
    """`combine` for elements whose last part is a reset: where it is set, nothing from the left passes."""

    def combined(left: Elements, right: Elements) -> Elements:
        cut = right[-1]
        both = combine(left[:-1], right[:-1])
        parts = tuple(
            torch.where(cut.reshape(*cut.shape, *[1] * (b.ndim - 2)), r, b)
            for r, b in zip(right[:-1], both, strict=True)
        )
        return *parts, left[-1] | cut

    return combined
