"""The time-invariant model by chunks: within a chunk a product with its kernel, between chunks the states.

With K_l = Re Σ_n w_n e^{lλ_n}, the read-out of step t of a chunk is Σ_s K_{t-s} u_s over its steps s <= t, a product
with a triangular matrix, plus Re Σ_n w_n e^{(t+1)λ_n} h_n of the state h before the chunk; the state after the chunk is
e^{Lλ} h + Σ_s e^{(L-1-s)λ} u_s. Powers are e^{lλ}, not repeated products.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from matrixstate.ops._checks import full_precision
from matrixstate.ops._dynamic import is_dynamic
from matrixstate.ops._plain import unsupported
from matrixstate.ops.lti.reference import read
from matrixstate.ops.scan import linear_scan

__all__ = ["lti_scan", "unsupported"]

CHUNK = 64  # steps


def lti_scan(
    u: Tensor, log_decay: Tensor, weight: Tensor, state: Tensor, mask: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    with full_precision(u):
        if mask is None and reset is None and not is_dynamic(u.shape[1]):
            return _by_chunks(u, log_decay, weight, state)
        decay = log_decay.exp()
        write = u.to(state.dtype)[..., None].expand(*u.shape, decay.shape[1])
        if mask is not None:
            write = torch.where(mask[..., None, None], write, 0)
            decay = torch.where(mask[..., None, None], decay, 1)
        h, last = linear_scan(write, decay=decay, state=state, reset=reset)
        return read(h, weight).to(u.dtype), last


def _by_chunks(u: Tensor, log_decay: Tensor, weight: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    B, T, D = u.shape
    L = min(CHUNK, T)
    n, whole = -(-T // L), T // L  # chunks, and those without padding
    wide = state.real.dtype if state.is_complex() else state.dtype
    powers = _powers(log_decay, L + 1)  # [D, N, L + 1]
    kernel = (weight[..., None] * powers[..., :L]).sum(1)
    kernel = kernel.real if kernel.is_complex() else kernel
    parts = pad(u.to(wide), (0, 0, 0, -T % L)).view(B, n, L, D).permute(3, 0, 1, 2).flatten(1, 2)  # [D, B·n, L]
    within = parts @ triangular(kernel).mT
    full = parts.unflatten(1, (B, n))[:, :, :whole].flatten(1, 2)  # [D, B·whole, L]
    written = _complex(full @ _pairs(powers[..., :L].flip(-1)).mT, log_decay).unflatten(1, (B, whole)).movedim(0, 2)
    ends, last = linear_scan(written, decay=powers[..., L], state=state)
    before = torch.cat([state[:, None], ends], dim=1)[:, :n]  # [B, n, D, N], before each chunk
    seen = _pairs(weight[..., None] * powers[..., 1:]) * _signs(log_decay, wide)  # [D, (2) N, L]
    across = _pairs(before.movedim(2, 0).flatten(1, 2).mT).mT @ seen  # [D, B·n, L]
    y = (within + across).unflatten(1, (B, n)).permute(1, 2, 3, 0).flatten(1, 2)[:, :T]
    rest = T - whole * L
    if rest:
        tail = parts.unflatten(1, (B, n))[:, :, -1, :rest]  # [D, B, rest]
        added = _complex(tail @ _pairs(powers[..., :rest].flip(-1)).mT, log_decay).movedim(0, 1)
        last = powers[..., rest] * last + added
    return y.to(u.dtype), last


def _powers(log_decay: Tensor, count: int) -> Tensor:
    """e^{lλ} for l < count: [D, N, count]. Angles of many turns need more digits than float32 has."""
    exact = log_decay
    if log_decay.device.type != "mps":  # which has no float64
        exact = log_decay.to(torch.complex128 if log_decay.is_complex() else torch.float64)
    steps = torch.arange(count, device=exact.device, dtype=exact.real.dtype if exact.is_complex() else exact.dtype)
    return (exact[..., None] * steps).exp().to(log_decay.dtype)


def triangular(kernel: Tensor) -> Tensor:
    """kernel [..., L] -> [..., L, L] with K_{t-s} at t, s and zeros above the diagonal."""
    L = kernel.shape[-1]
    step = torch.arange(L, device=kernel.device)
    lag = step[:, None] - step
    return kernel[..., lag.clamp(min=0)].masked_fill(lag < 0, 0)


def _pairs(x: Tensor) -> Tensor:
    """Complex [D, N, L] as real [D, 2 N, L], real parts first; real numbers as they are."""
    return torch.cat([x.real, x.imag], dim=1) if x.is_complex() else x


def _complex(x: Tensor, like: Tensor) -> Tensor:
    """Real [..., 2 N], real parts first, as complex [..., N], where `like` is complex."""
    return torch.complex(*x.chunk(2, dim=-1)) if like.is_complex() else x


def _signs(like: Tensor, dtype: torch.dtype) -> Tensor:
    """[(2) N, 1]: 1 for real parts, -1 for imaginary ones, since Re(w h) = Re w Re h - Im w Im h."""
    ones = torch.ones(like.shape[1], 1, dtype=dtype, device=like.device)
    return torch.cat([ones, -ones]) if like.is_complex() else ones
