"""The Triton kernels of the matrix scans (triton_programs.py) as PyTorch operators."""

import math
from typing import Any

import torch
from torch import Tensor

from matrixstate.ops import _triton
from matrixstate.ops._operators import dense, differentiable, differentiable_once, fresh, operator
from matrixstate.ops.matrix import triton_programs
from matrixstate.ops.matrix.scan import log_scales, normalised

__all__ = ["matrix_scan", "scaled_matrix_scan", "unsupported"]

ROWS = 16  # of a state, per program: the least that tensor cores take, and most programs


def unsupported(device: str, dtype: torch.dtype, method: str = "auto", *details: str) -> str | None:
    """Why the kernels cannot run such inputs; None if they can."""
    if method not in ("auto", "sequential", "chunked"):
        return f"multiplies one step after another, in the whole sequence or in chunks, which is not method {method!r}"
    if details:
        return "keeps x and, where it rescales, whole states in registers, for which D and R must be at most 64"
    return _triton.unsupported(device, dtype)


def matrix_scan(x: Tensor, v: Tensor | None, state: Tensor, reset: Tensor | None, method: str) -> tuple[Tensor, Tensor]:
    """As the reference."""
    return torch.ops.matrixstate.matrix_scan_triton(x, v, state, None, reset, _chunk(x, method))[:2]


def scaled_matrix_scan(
    x: Tensor, matrix: Tensor, exponent: Tensor, reset: Tensor | None, method: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the reference."""
    chunk = _chunk(x, method)
    m, last, exponents = torch.ops.matrixstate.matrix_scan_triton(x, None, matrix, exponent, reset, chunk)
    h, size = normalised(m)
    return h.to(x.dtype), log_scales(size, exponents), last, exponents[:, -1].clone()


def _chunk(x: Tensor, method: str) -> int:
    """Steps of a chunk: all but for "chunked", where it is a divisor of T of about its root."""
    T = x.shape[1]
    divisors = [d for d in range(2, math.isqrt(T) + 1) if T % d == 0] if method == "chunked" else []
    return divisors[-1] if divisors else T


def _outputs(x: Tensor, state: Tensor, exponent: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    B, T, H, R, D = *x.shape[:3], *state.shape[2:]
    h = fresh(x, B, T, H, R, D, dtype=x.dtype if exponent is None else torch.float32)
    return h, fresh(state), fresh(x, B, 0 if exponent is None else T, H, dtype=torch.int32)


def _sizes(state: Tensor, rows: int = ROWS) -> dict[str, int]:
    """The constants and the number of warps of all programs."""
    H, R, D = state.shape[1:]
    columns = _triton.padded(D)
    sizes = {"H": H, "R": R, "D": D, "ROWS": rows, "COLUMNS": columns}
    return sizes | {"warps": min(rows * columns // 256, 8), "PRECISION": _triton.exact()}


@operator("matrix_scan_triton", "CUDA", "CPU")
def _forward(
    x: Tensor, v: Tensor | None, state: Tensor, exponent: Tensor | None, reset: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """h, the last state, and the exponent of every h (empty without `exponent`, where nothing is rescaled)."""
    h, _, exponents = _outputs(x, state, exponent)
    flags, written = _triton.flags(reset, x), None if exponent is None else exponents
    if chunk == x.shape[1]:
        return h, _scan(x, v, flags, state, exponent, None, h, written), exponents
    x, v, flags = _cut(x, chunk), None if v is None else _cut(v, chunk), _cut(flags, chunk)
    state, exponent = _states_before_chunks(x, v, flags, state, exponent)
    written = None if written is None else _cut(written, chunk)
    last = _scan(x, v, flags, state, exponent, None, _cut(h, chunk), written)
    return h, last.unflatten(0, (len(h), -1))[:, -1].clone(), exponents


def _states_before_chunks(
    x: Tensor, v: Tensor | None, flags: Tensor, state: Tensor, exponent: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The state and exponent before every chunk, from the products of the chunks, formed at once, and their scan."""
    of_rows = lambda t: t.unflatten(0, (len(state), -1))  # noqa: E731  # [B·N, ...] as [B, N, ...]
    products, moved = _products(x, flags, exponent is not None)
    added = None if v is None else of_rows(_scan(x, v, flags, products.new_zeros(len(x), *state.shape[1:])))
    h = fresh(state, len(state), len(x) // len(state), *state.shape[1:])
    exponents, shift = (None, None) if moved is None else (fresh(moved, *h.shape[:3]), of_rows(moved))
    _scan(of_rows(products), added, of_rows(flags.amax(1)), state, exponent, shift, h, exponents)
    before = torch.cat([state[:, None], h[:, :-1]], dim=1).flatten(0, 1)
    if exponent is None or exponents is None:
        return before, None
    return before, torch.cat([exponent[:, None], exponents[:, :-1]], dim=1).flatten(0, 1)


def _products(x: Tensor, flags: Tensor, scaled: bool) -> tuple[Tensor, Tensor | None]:
    """The product of each row's steps, since its last reset; rescaled if asked for, with the exponents [B, H]."""
    B, T, H, D = x.shape[:4]
    identity = torch.eye(D, device=x.device).expand(B, H, D, D)
    if not scaled:
        return _scan(x, None, flags, identity), None
    exponents = fresh(x, B, T, H, dtype=torch.int32)
    product = _scan(x, None, flags, identity, torch.zeros_like(exponents[:, 0]), exponents=exponents)
    return product, exponents[:, -1]


def _cut(tensor: Tensor, chunk: int) -> Tensor:
    """[B, T, ...] as [B·N, T/N, ...]: its chunks as rows of a batch."""
    return tensor.reshape(-1, chunk, *tensor.shape[2:])


def _scan(
    x: Tensor,
    v: Tensor | None,
    flags: Tensor,
    state: Tensor,
    exponent: Tensor | None = None,
    shift: Tensor | None = None,
    h: Tensor | None = None,
    exponents: Tensor | None = None,
) -> Tensor:
    """Runs `forward`, which writes h and exponents if they are given; returns the last state."""
    (B, T, H), R, last = x.shape[:3], state.shape[2], fresh(state)
    rows = ROWS if exponent is None else _triton.padded(R)  # the largest entry is sought among all rows
    arguments = (*dense(x, v, flags, state, exponent), h, last, exponents, *dense(shift), T)
    _triton.launch(triton_programs.forward, (B * H, -(-R // rows)), arguments, **_sizes(state, rows))
    return last


@operator("matrix_scan_triton_backward", "CUDA", "CPU")
def _backward(
    x: Tensor,
    state: Tensor,
    exponent: Tensor | None,
    reset: Tensor | None,
    h: Tensor,
    exponents: Tensor,
    dh: Tensor,
    dlast: Tensor,
    has_v: bool,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, v (empty where there is none) and the first state."""
    (B, T, H), flags = x.shape[:3], _triton.flags(reset, x)
    dx, g = fresh(x), fresh(h, dtype=torch.float32)
    power = None if exponent is None else _powers(exponent, exponents, reset)
    if chunk == T:
        dfirst = _adjoint(x, flags, power, dh, dlast, g)
    else:
        shift = None
        if exponent is not None:
            ends = exponents[:, chunk - 1 :: chunk]
            shift = torch.cat([exponent[:, None], ends[:, :-1]], dim=1) - ends
        powers = None if power is None else _cut(power, chunk)
        of_chunks = _cut(x, chunk), _cut(flags, chunk), powers, _cut(dh, chunk)
        dfirst = _adjoint_of_chunks(*of_chunks, shift, dlast, _cut(g, chunk))
    arguments = (*dense(state), flags, *dense(h), g, dx, T)
    _triton.launch(triton_programs.input_gradients, (T, H, B), arguments, AFFINE=has_v, **_sizes(state))
    return dx, g.to(x.dtype) if has_v else fresh(h, 0), dfirst


def _adjoint_of_chunks(
    x: Tensor,
    flags: Tensor,
    power: Tensor | None,
    dh: Tensor,
    shift: Tensor | None,
    dlast: Tensor,
    g: Tensor,
) -> Tensor:
    """As `_adjoint`, in three phases. shift [B, N, H]: the exponent before each chunk less that after it."""
    of_rows = lambda t: t.unflatten(0, (len(dlast), -1))  # noqa: E731  # [B·N, ...] as [B, N, ...]
    products, moved = _products(x, flags, power is not None)
    if moved is not None and shift is not None:  # those of the factors that the forward pass multiplied by
        products = torch.ldexp(products, (moved + shift.flatten(0, 1))[..., None, None])
    added = of_rows(_adjoint(x, flags, power, dh, products.new_zeros(len(x), *dlast.shape[1:])))
    incoming = torch.empty_like(added)  # the gradient of the state after each chunk
    later = torch.cat([added[:, 1:], torch.zeros_like(added[:, :1])], dim=1)
    _adjoint(of_rows(products), of_rows(flags.amax(1)), None, later, dlast, incoming)
    return of_rows(_adjoint(x, flags, power, dh, incoming.flatten(0, 1), g))[:, 0].clone()


def _adjoint(
    x: Tensor, flags: Tensor, power: Tensor | None, dh: Tensor, dlast: Tensor, g: Tensor | None = None
) -> Tensor:
    """Runs `adjoint`, which writes g if it is given; returns the gradient of the first state."""
    (B, T, H), R, dfirst = x.shape[:3], dlast.shape[2], fresh(dlast)
    arguments = (*dense(x, flags, power, dh, dlast), g, dfirst, T)
    _triton.launch(triton_programs.adjoint, (B * H, -(-R // ROWS)), arguments, **_sizes(dlast))
    return dfirst


def _powers(exponent: Tensor, exponents: Tensor, reset: Tensor | None) -> Tensor:
    """[B, T, H]: by which each step multiplied its product, 2^-(what it moved from m to e)."""
    before = torch.cat([exponent[:, None], exponents[:, :-1]], dim=1)
    before = before if reset is None else before.masked_fill(reset[..., None], 0)
    return ((before - exponents + 127) << 23).view(torch.float32)  # from its bits, for exactness on every device


@torch.library.register_fake("matrixstate::matrix_scan_triton")
def _(x, v, state, exponent, reset, chunk):
    return _outputs(x, state, exponent)


@torch.library.register_fake("matrixstate::matrix_scan_triton_backward")
def _(x, state, exponent, reset, h, exponents, dh, dlast, has_v, chunk):
    return fresh(x), fresh(h, dtype=x.dtype) if has_v else fresh(h, 0), fresh(state)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, v, state, exponent, reset, ctx.chunk = inputs
    h, _, exponents = output
    ctx.save_for_backward(x, state, exponent, reset, h, exponents)
    ctx.has_v = v is not None
    ctx.mark_non_differentiable(exponents)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dh: Tensor | None, dlast: Tensor | None, _: None) -> tuple:
    saved = ctx.saved_tensors
    dh = torch.zeros_like(saved[4]) if dh is None else dh
    dlast = torch.zeros_like(saved[1]) if dlast is None else dlast
    dx, dv, dstate = torch.ops.matrixstate.matrix_scan_triton_backward(*saved, dh, dlast, ctx.has_v, ctx.chunk)
    return dx, dv if ctx.has_v else None, dstate, None, None, None


differentiable("matrix_scan_triton", _differentiate, _save_for_backward)
differentiable_once("matrix_scan_triton_backward", "matrix_scan, scaled_matrix_scan")
