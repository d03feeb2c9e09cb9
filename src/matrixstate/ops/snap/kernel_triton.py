"""The Triton kernel of `snap_scan` (triton_programs.py) as PyTorch operators."""

from typing import Any

import torch
from torch import Tensor

from matrixstate.ops import _triton
from matrixstate.ops._checks import full_precision
from matrixstate.ops._operators import dense, differentiable, differentiable_once, fresh, operator
from matrixstate.ops.matrix.triton_programs import input_gradients
from matrixstate.ops.snap import triton_programs

__all__ = ["snap_scan", "unsupported"]

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """Why the kernel cannot run such inputs; None if it can."""
    if details:
        return (
            "keeps the states of a group in registers, for which H/G and D, each rounded up to a power of two and D to "
            f"at least 16, must have (H/G)·D² of at most 4096, got {details[0]}"
        )
    return _triton.unsupported(device, dtype)


def snap_scan(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    matrix: Tensor,
    phase: Tensor,
    every: int,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference."""
    keys, values = keys.to(torch.float32), values.to(torch.float32)
    h, last, after, *_ = torch.ops.matrixstate.snap_scan_triton(x, keys, values, matrix, phase, every, mask, reset)
    return h.to(x.dtype), last, after  # the operator returns float32, which its backward pass needs


def _outputs(x: Tensor, keys: Tensor, matrix: Tensor, phase: Tensor, every: int) -> Outputs:
    """h, the last state, its phase, and what the backward pass needs; that of corrections which never come is zero."""
    (B, T, H, D), (G, M) = x.shape[:4], keys.shape[:2]
    N, heads = -(-T // every), H // G
    inverse, slot = fresh(matrix, B, T, H), fresh(phase, B, T)
    corrected, weights, mixed = (matrix.new_zeros(B, G, N, count) for count in (heads * D * D, M, heads))
    return fresh(x, dtype=torch.float32), fresh(matrix), fresh(phase), inverse, slot, corrected, weights, mixed


def _sizes(keys: Tensor) -> dict[str, Any]:
    """The constants and the number of warps of both programs."""
    G, M, heads, D = keys.shape[:4]
    numbers, order = _triton.padded(heads * D * D, least=1), _triton.padded(D)
    states = _triton.padded(heads, least=1) * order**2
    # More warps only pay where there are many codes to read, or larger states, which leave less room for codes.
    warps = max(1 if M * numbers <= 4096 else 4, min(states // 256, 8))
    codes = min(_triton.padded(M, least=1), (1024 if states == 256 else 512) * warps // numbers)
    sizes = {"H": G * heads, "G": G, "M": M, "D": D, "ORDER": order, "NUMBERS": numbers}
    sizes["HEADS"] = _triton.padded(heads, least=1)
    return sizes | {"CODES": max(codes, 1), "PRECISION": _triton.exact(), "warps": warps}


def _mask(mask: Tensor | None, x: Tensor) -> Tensor:
    """The mask as numbers; ones where there is none."""
    return x.new_ones(x.shape[:2], dtype=torch.int8) if mask is None else mask.contiguous().view(torch.int8)


@operator("snap_scan_triton", "CUDA", "CPU")
def _forward(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    matrix: Tensor,
    phase: Tensor,
    every: int,
    mask: Tensor | None,
    reset: Tensor | None,
) -> Outputs:
    """`_outputs`, computed."""
    h, last, *others = outputs = _outputs(x, keys, matrix, phase, every)
    inputs = *dense(x, keys, values, matrix, phase), _mask(mask, x), _triton.flags(reset, x)
    arguments = (*inputs, h, *others, x.shape[1], every)
    _triton.launch(triton_programs.forward, (len(x), len(keys)), arguments, **_sizes(keys))
    last.copy_(h[:, -1])
    return outputs


@operator("snap_scan_triton_backward", "CUDA", "CPU")
def _backward(
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    matrix: Tensor,
    mask: Tensor | None,
    reset: Tensor | None,
    h: Tensor,
    inverse: Tensor,
    slot: Tensor,
    corrected: Tensor,
    weights: Tensor,
    mixed: Tensor,
    dh: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, keys, values and the first state."""
    (B, T, H, D), G = x.shape[:4], len(keys)
    flags, constants = _triton.flags(reset, x), _sizes(keys)
    dx, dfirst, dm = fresh(x), fresh(matrix), fresh(h)
    dmixed, dscores = torch.zeros_like(corrected), torch.zeros_like(weights)
    inputs = *dense(x, keys, values), _mask(mask, x), flags, *dense(h, inverse, slot, corrected, weights, mixed)
    arguments = (*inputs, *dense(dh, dlast), dm, dmixed, dscores, dfirst, T, corrected.shape[2])
    _triton.launch(triton_programs.adjoint, (B, G), arguments, **constants)
    order, warps = constants["ORDER"], constants["ORDER"] // 16
    sizes = {"H": H, "R": D, "D": D, "ROWS": 16, "COLUMNS": order, "PRECISION": constants["PRECISION"]}
    arguments = (*dense(matrix), flags, *dense(h), dm, dx, T)
    _triton.launch(input_gradients, (T, H, B), arguments, AFFINE=False, warps=warps, **sizes)
    with full_precision(x):
        dkeys = torch.einsum("bgnm,bgne->gme", dscores, corrected)
        dvalues = torch.einsum("bgnm,bgne->gme", weights, dmixed)
    return dx, dkeys.view(keys.shape), dvalues.view(keys.shape), dfirst


@torch.library.register_fake("matrixstate::snap_scan_triton")
def _(x, keys, values, matrix, phase, every, mask, reset):
    return _outputs(x, keys, matrix, phase, every)


@torch.library.register_fake("matrixstate::snap_scan_triton_backward")
def _(x, keys, values, matrix, mask, reset, h, inverse, slot, corrected, weights, mixed, dh, dlast):
    return fresh(x), fresh(keys), fresh(keys), fresh(matrix)


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    x, keys, values, matrix, _, _, mask, reset = inputs
    h, last, after, *saved = output
    ctx.save_for_backward(x, keys, values, matrix, mask, reset, h, *saved)
    ctx.mark_non_differentiable(after, *saved)
    ctx.set_materialize_grads(False)
    ctx.like = h.shape, last.shape


def _differentiate(ctx: Any, dh: Tensor | None, dlast: Tensor | None, *_: None) -> tuple:
    saved = ctx.saved_tensors
    h_shape, state_shape = ctx.like
    dh = saved[6].new_zeros(h_shape) if dh is None else dh
    dlast = saved[6].new_zeros(state_shape) if dlast is None else dlast
    gradients = torch.ops.matrixstate.snap_scan_triton_backward(*saved, dh, dlast)
    return *gradients, None, None, None, None


differentiable("snap_scan_triton", _differentiate, _save_for_backward)
differentiable_once("snap_scan_triton_backward", "snap_scan")
