"""The definition of the MRU: plain PyTorch, part by part. Its gradient is that of the parts."""

import math

import torch
from torch import Tensor

from matrixstate.ops._checks import accumulation_dtype, full_precision
from matrixstate.ops._plain import unsupported
from matrixstate.ops.conv import causal_conv
from matrixstate.ops.matrix import matrix_scan, scaled_matrix_scan
from matrixstate.ops.mru.builders import build_state_matrix
from matrixstate.ops.mru.checks import check_step
from matrixstate.ops.mru.decays import write_share
from matrixstate.ops.mru.weights import MRUWeights, State

__all__ = ["mru_scan", "mru_step", "unsupported"]


def mru_scan(
    elements: Tensor,
    down: Tensor,
    v: Tensor | None,
    decay: Tensor | None,
    state: State,
    reset: Tensor | None,
    mask: Tensor | None,
    builder: str,
    readout: str,
    bound: float,
    method: str,
    *,
    backend: str = "reference",
) -> tuple[Tensor, State]:
    """elements [B,T,H,n], down [H,D,C], v [B,T,H,D,D] or None, decay [B,T,H] or None, state [B,H,D,D] or, where H is
    rescaled, a `ScaledState`, reset and mask [B,T] or None -> y [B,T,H,D,C] in the dtype of elements, state.

    `backend` is that of the scan of matrices inside.
    """
    dtype, order = accumulation_dtype(elements.dtype), down.shape[1]
    with full_precision(elements):
        matrices = build_state_matrix(builder, elements, order)
        if decay is not None:
            matrices = matrices * decay.to(dtype)[..., None, None]
        v = None if v is None else v.to(dtype)
        if mask is not None:
            real = mask[..., None, None, None]
            matrices = torch.where(real, matrices, torch.eye(order, dtype=dtype, device=elements.device))
            v = None if v is None else v.masked_fill(~real, 0)
        if isinstance(state, tuple):
            h, log_scale, last = scaled_matrix_scan(matrices, state, reset=reset, method=method, backend=backend)
        else:
            h, last = matrix_scan(matrices, v, state, reset=reset, method=method, backend=backend)
            log_scale = None
        y = _read(h, log_scale, readout, bound) @ down.to(dtype)
    return y.to(elements.dtype), last


def _read(h: Tensor, log_scale: Tensor | None, readout: str, bound: float) -> Tensor:
    """What W_down multiplies: the read-out of states h [B,T,H,D,D] or, with log_scale [B,T,H], of e^log_scale h."""
    if log_scale is not None:
        scale = log_scale
    elif readout == "state":
        return h
    else:
        norm = torch.linalg.matrix_norm(h).clamp_min(1e-6) / math.sqrt(h.shape[-1])
        h, scale = h / norm[..., None, None], norm.log()
    if readout == "normalised":
        return h
    if readout == "bounded":
        scale = bound * torch.tanh(scale / bound)
    return h * scale.exp()[..., None, None]


def mru_step(
    elements: Tensor,
    value: Tensor | None,
    forget: Tensor | None,
    gate: Tensor | None,
    weights: MRUWeights,
    past: Tensor | None,
    state: State,
    *,
    backend: str = "reference",
) -> tuple[Tensor, Tensor | None, State]:
    """The definition of the step: the ops that it replaces, one after another. `backend` is theirs."""
    check_step("mru_step", elements, value, forget, gate, weights, past, state)
    dtype, D = accumulation_dtype(elements.dtype), weights.down.shape[1]
    added = decay = None
    if value is not None and weights.conv is not None:
        value, past = causal_conv(value.to(dtype), weights.conv, state=past, activation="silu", backend=backend)
        added = value.unflatten(-1, (-1, D, D))
    if forget is not None and weights.log_rate is not None and weights.bias is not None:
        step = torch.nn.functional.softplus(forget.to(dtype) + weights.bias.to(dtype))
        log_decay = -weights.log_rate.to(dtype).exp() * step
        decay = torch.exp(log_decay)
        if weights.balanced and added is not None:
            added = added * write_share(log_decay)[..., None, None]
    options = weights.builder, weights.readout, weights.bound, "auto"
    wide = elements.to(dtype)
    y, state = mru_scan(wide, weights.down, added, decay, state, None, None, *options, backend=backend)
    y = y.flatten(2)
    if weights.skip is not None and value is not None:
        y = y + weights.skip.to(dtype) * value
    if gate is not None:
        y = y * torch.nn.functional.silu(gate.to(dtype))
    if weights.norm is None:
        return y.to(elements.dtype), past, state
    y = torch.nn.functional.rms_norm(y, y.shape[2:], weights.norm.to(dtype), weights.eps)
    return y.to(weights.norm.dtype), past, state
