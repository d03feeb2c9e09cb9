"""The definition of the MRU: plain PyTorch, one part after another. Its gradient is that of the parts."""

import math

import torch
from torch import Tensor

from matrixstate.ops._checks import accumulation_dtype, full_precision
from matrixstate.ops.matrix import ScaledState, matrix_scan, scaled_matrix_scan
from matrixstate.ops.mru.builders import build_state_matrix


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    return None


def mru_scan(
    elements: Tensor,
    down: Tensor,
    v: Tensor | None,
    decay: Tensor | None,
    state: Tensor | ScaledState | None,
    reset: Tensor | None,
    mask: Tensor | None,
    *,
    builder: str,
    rescale: bool,
    readout: str,
    bound: float,
    method: str,
    backend: str = "reference",
) -> tuple[Tensor, Tensor | ScaledState]:
    """As `matrixstate.ops.mru_scan`, its inputs checked. `backend` is that of the scan of matrices inside."""
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
        if rescale:
            scaled_state = None if state is None else ScaledState(*state)
            h, log_scale, last = scaled_matrix_scan(matrices, scaled_state, reset=reset, method=method, backend=backend)
        else:
            plain_state = state if isinstance(state, Tensor) else None
            h, last = matrix_scan(matrices, v, plain_state, reset=reset, method=method, backend=backend)
            log_scale = None
        y = _read(h, log_scale, readout, bound) @ down.to(dtype)
    return y.to(elements.dtype), last


def _read(h: Tensor, log_scale: Tensor | None, readout: str, bound: float) -> Tensor:
    """What W_down sees of every state h [B, T, H, D, D] or, with log_scale [B, T, H], e^log_scale h."""
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
