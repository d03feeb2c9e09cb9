"""The dense time-invariant model by chunks: within a chunk a product with its kernel, between chunks the states.

With K_l = C A^l b, the read-out of step t of a chunk is Σ_s K_{t-s} u_s over its steps s <= t, plus C A^{t+1} h of the
state h before the chunk; the state after a chunk of L steps is A^L h + Σ_s A^{L-1-s} b u_s. All powers come from A, A²,
A⁴, ... in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from matrixstate.ops._checks import full_precision
from matrixstate.ops._dynamic import is_dynamic, over_chunks
from matrixstate.ops._plain import unsupported
from matrixstate.ops.lti.chunked import triangular
from matrixstate.ops.lti.reference import dense_lti_scan as step_by_step

__all__ = ["dense_lti_scan", "unsupported"]

CHUNK = 64  # steps, a power of two


def dense_lti_scan(
    u: Tensor,
    transition: Tensor,
    write: Tensor,
    readout: Tensor,
    state: Tensor,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    if is_dynamic(u.shape[1]):
        real = torch.ones_like(u[..., 0], dtype=torch.bool) if mask is None else mask

        def run(u: Tensor, real: Tensor, reset: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
            return step_by_step(u, transition, write, readout, state, real, reset)

        return over_chunks(run, (u, real, reset), state, CHUNK)
    if mask is not None or reset is not None:
        return step_by_step(u, transition, write, readout, state, mask, reset)
    with full_precision(u):
        return _by_chunks(u, transition, write, readout, state)


def _by_chunks(u: Tensor, transition: Tensor, write: Tensor, readout: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    (B, T, D), (_, M, N) = u.shape, readout.shape
    L = min(CHUNK, 1 << (T - 1).bit_length())
    n, whole, rest = -(-T // L), T // L, T % L  # chunks, those without padding, and the steps of the one with it
    powers = _powers(transition, write, readout, L)
    G = len(powers.columns)  # systems, D or 1; the channels of one are further rows
    parts = pad(u.to(state.dtype), (0, 0, 0, -T % L)).view(B, n, L, D).permute(3, 0, 1, 2)
    rows = D // G * B
    parts = parts.reshape(G, rows, n, L)
    ends = powers.columns.flip(-1).mT  # [G, L, N]: what each step of a chunk leaves at its end
    written = (parts[:, :, :whole].flatten(1, 2) @ ends).unflatten(1, (rows, whole))
    h, before = state.transpose(0, 1).reshape(G, rows, N), []
    for k in range(whole):
        before.append(h)
        h = h @ powers.squares[-1].mT + written[:, :, k]
    if rest:
        before.append(h)
        h = _advanced(h, powers.squares, rest) + parts[:, :, -1, :rest] @ ends[:, L - rest :]
    within = parts.flatten(1, 2) @ triangular(powers.kernel).permute(0, 3, 2, 1).flatten(2)
    across = torch.stack(before, dim=2).flatten(1, 2) @ powers.rows.mT
    y = (within + across).view(D, B, n * L, M).permute(1, 2, 0, 3)[:, :T]
    return y.to(u.dtype), h.view(D, B, N).transpose(0, 1).contiguous()


class _Powers(NamedTuple):
    """What a chunk of L steps needs of the powers of A, for G systems."""

    columns: Tensor  # [G, N, L], A^l b
    rows: Tensor  # [G, L·M, N], C A^{l+1}
    kernel: Tensor  # [G, M, L], C A^l b
    squares: list[Tensor]  # [G or 1, N, N], A^(2^i) up to A^L


def _powers(transition: Tensor, write: Tensor, readout: Tensor, L: int) -> _Powers:
    """By doubling, in float64, for A^l has l times the relative error of A. L is a power of two."""
    exact = torch.float64 if transition.device.type != "mps" else torch.float32  # which has no float64
    A, b, C = transition.to(exact), write.to(exact), readout.to(exact)
    columns, rows, squares = b[..., None], C @ A, [A]
    while 1 << len(squares) <= L:
        A = squares[-1]
        columns = torch.cat(torch.broadcast_tensors(columns, A @ columns), dim=-1)
        rows = torch.cat(torch.broadcast_tensors(rows, rows @ A), dim=1)
        squares.append(A @ A)
    kernel = C @ columns
    G = max(len(x) for x in (columns, rows, kernel))
    columns, rows, kernel = (x.to(write.dtype).expand(G, *x.shape[1:]) for x in (columns, rows, kernel))
    return _Powers(columns, rows, kernel, [A.to(write.dtype) for A in squares])


def _advanced(h: Tensor, squares: list[Tensor], steps: int) -> Tensor:
    """A^steps h of h [G, R, N]."""
    for i, A in enumerate(squares):
        if steps >> i & 1:
            h = h @ A.mT
    return h
