"""The kernels of the matrix scans (csrc/matrix/) as PyTorch operators."""

from typing import Any

import torch
from torch import Tensor

from matrixstate import _native
from matrixstate.ops import _cpu
from matrixstate.ops._operators import dense, differentiable, differentiable_once, fresh, operator
from matrixstate.ops.matrix.scan import log_scales

__all__ = ["matrix_scan", "scaled_matrix_scan", "unsupported"]


def unsupported(device: str, dtype: torch.dtype, method: str = "auto", *details: str) -> str | None:
    if method not in ("auto", "sequential"):
        return f"multiplies one step after another, which is not method {method!r}"
    return _cpu.unsupported(device, dtype)


def matrix_scan(x: Tensor, v: Tensor | None, state: Tensor, reset: Tensor | None, method: str) -> tuple[Tensor, Tensor]:
    """As the reference."""
    h, last, _ = torch.ops.matrixstate.matrix_scan_cpu(x, v, state, None, reset)
    return h.to(x.dtype), last  # the operator returns float32, which its backward pass needs


def scaled_matrix_scan(
    x: Tensor, matrix: Tensor, exponent: Tensor, reset: Tensor | None, method: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the reference."""
    m, last, exponents = torch.ops.matrixstate.matrix_scan_cpu(x, None, matrix, exponent, reset)
    h, size = torch.ops.matrixstate.matrix_normalise_cpu(m, x.dtype)
    return h, log_scales(size, exponents), last, exponents[:, -1].clone()


def _outputs(x: Tensor, state: Tensor, exponent: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    B, T, H, R, D = *x.shape[:3], *state.shape[2:]
    h = fresh(x, B, T, H, R, D, dtype=torch.float32)
    return h, fresh(state), fresh(x, B, 0 if exponent is None else T, H, dtype=torch.int32)


@operator("matrix_scan_cpu")
def _forward(
    x: Tensor, v: Tensor | None, state: Tensor, exponent: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """h, the last state, and the exponent of every h (empty without `exponent`, where nothing is rescaled)."""
    h, last, exponents = _outputs(x, state, exponent)
    inputs = dense(x, v, state, exponent, reset)
    _native.matrix_forward(*inputs, h, last, None if exponent is None else exponents, torch.get_num_threads())
    return h, last, exponents


@operator("matrix_scan_cpu_backward")
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
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, v (empty where there is none) and the first state."""
    dx, dv, dstate = gradients = _gradients(x, state, h, has_v)
    inputs = dense(x, state, exponent, reset, h, None if exponent is None else exponents, dh, dlast)
    _native.matrix_backward(*inputs, dx, dv if has_v else None, dstate, torch.get_num_threads())
    return gradients


def _gradients(x: Tensor, state: Tensor, h: Tensor, has_v: bool) -> tuple[Tensor, Tensor, Tensor]:
    return fresh(x), fresh(h, dtype=x.dtype) if has_v else fresh(h, 0), fresh(state)


@operator("matrix_normalise_cpu")
def _normalise(m: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """m [B, T, H, R, D] float32 as h of norm sqrt(D), in `dtype`, and its size [B, T, H]: m = size·h."""
    h, size = _normalised(m, dtype)
    _native.normalise_forward(*dense(m), h, size, torch.get_num_threads())
    return h, size


@operator("matrix_normalise_cpu_backward")
def _normalise_backward(m: Tensor, size: Tensor, dh: Tensor, dsize: Tensor) -> Tensor:
    """The gradient of m."""
    dm = fresh(m)
    _native.normalise_backward(*dense(m, size, dh, dsize), dm, torch.get_num_threads())
    return dm


def _normalised(m: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return fresh(m, dtype=dtype), fresh(m, *m.shape[:3])


@torch.library.register_fake("matrixstate::matrix_normalise_cpu")
def _(m, dtype):
    return _normalised(m, dtype)


@torch.library.register_fake("matrixstate::matrix_normalise_cpu_backward")
def _(m, size, dh, dsize):
    return fresh(m)


@torch.library.register_fake("matrixstate::matrix_scan_cpu")
def _(x, v, state, exponent, reset):
    return _outputs(x, state, exponent)


@torch.library.register_fake("matrixstate::matrix_scan_cpu_backward")
def _(x, state, exponent, reset, h, exponents, dh, dlast, has_v):
    return _gradients(x, state, h, has_v)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, v, state, exponent, reset = inputs
    h, _, exponents = output
    ctx.save_for_backward(x, state, exponent, reset, h, exponents)
    ctx.has_v = v is not None
    ctx.mark_non_differentiable(exponents)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dh: Tensor | None, dlast: Tensor | None, _: None) -> tuple:
    saved = ctx.saved_tensors
    dh = torch.zeros_like(saved[4]) if dh is None else dh
    dlast = torch.zeros_like(saved[1]) if dlast is None else dlast
    dx, dv, dstate = torch.ops.matrixstate.matrix_scan_cpu_backward(*saved, dh, dlast, ctx.has_v)
    return dx, dv if ctx.has_v else None, dstate, None, None


def _save_matrices(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    ctx.dtype = inputs[1]
    ctx.set_materialize_grads(False)


def _differentiate_normalised(ctx: Any, dh: Tensor | None, dsize: Tensor | None) -> tuple:
    m, size = ctx.saved_tensors
    dh = m.new_zeros(m.shape, dtype=ctx.dtype) if dh is None else dh
    dsize = torch.zeros_like(size) if dsize is None else dsize
    return torch.ops.matrixstate.matrix_normalise_cpu_backward(m, size, dh, dsize), None


differentiable("matrix_normalise_cpu", _differentiate_normalised, _save_matrices)
differentiable_once("matrix_normalise_cpu_backward", "scaled_matrix_scan")
differentiable("matrix_scan_cpu", _differentiate, _save_for_backward)
differentiable_once("matrix_scan_cpu_backward", "matrix_scan, scaled_matrix_scan")
