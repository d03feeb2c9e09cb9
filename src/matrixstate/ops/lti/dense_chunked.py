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
    if mask is not None:
        return step_by_step(u, transition, write, readout, state, mask, reset)
    with full_precision(u):
        return _by_chunks(u, transition, write, readout, state, reset)


def _by_chunks(
    u: Tensor, transition: Tensor, write: Tensor, readout: Tensor, state: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    (B, T, D), (_, M, N) = u.shape, readout.shape
    L = min(CHUNK, 1 << (T - 1).bit_length())
    n, whole, rest = -(-T // L), T // L, T % L  # chunks, those without padding, and the steps of the one with it
    powers = _powers(transition, write, readout, L)
    G = len(powers.columns)  # systems, D or 1
    rows = D // G * B  # of each: the channels of one are further rows
    seen = None if reset is None else _Seen.of(pad(reset, (0, -T % L)).view(B, n, L))
    parts = pad(u.to(state.dtype), (0, 0, 0, -T % L)).view(B, n, L, D).permute(3, 0, 1, 2)  # [D, B, n, L]
    kept = (parts if seen is None else parts * seen.at_end).reshape(G, rows, n, L)
    ends = powers.columns.flip(-1).mT  # [G, L, N]: what each step of a chunk leaves at its end
    written = (kept[:, :, :whole].flatten(1, 2) @ ends).unflatten(1, (rows, whole))
    h, before = state.transpose(0, 1).reshape(G, rows, N), []
    for k in range(n):
        before.append(h)
        h = h if seen is None else h * seen.carried[:, k].repeat(D // G)[:, None]
        h = h @ powers.squares[-1].mT + written[:, :, k] if k < whole else _advanced(h, powers.squares, rest)
    if rest:
        h = h + kept[:, :, -1, :rest] @ ends[:, L - rest :]
    across = torch.stack(before, dim=2).flatten(1, 2) @ powers.rows.mT
    across = across.view(D, B, n, L, M)
    across = across if seen is None else across * seen.first[..., None]
    within = _within(powers.kernel, parts.reshape(G, D // G, B, n, L), seen).view(D, B, n, L, M)
    y = (within + across).flatten(2, 3).permute(1, 2, 0, 3)[:, :T]
    return y.to(u.dtype), h.view(D, B, N).transpose(0, 1).contiguous()


class _Seen(NamedTuple):
    """What resets hide within n chunks of L steps."""

    each: Tensor  # [B, n, L, L] bool, whether step t is of the document of step s
    at_end: Tensor  # [B, n, L] bool, whether a step is of the document at the chunk's end
    first: Tensor  # [B, n, L] bool, whether it is of the document of the state before the chunk
    carried: Tensor  # [B, n] bool, whether the document at the end is

    @classmethod
    def of(cls, reset: Tensor) -> "_Seen":
        """reset: [B, n, L]."""
        document = reset.cumsum(2)
        each = document[..., None] == document[..., None, :]
        return cls(each, each[..., -1, :], document == 0, document[..., -1] == 0)


def _within(kernel: Tensor, parts: Tensor, seen: _Seen | None) -> Tensor:
    """Σ_s K_{t-s} u_s over the steps s <= t of a chunk; kernel [G, M, L], parts [G, D/G, B, n, L] -> [G, .., L·M]."""
    matrix = triangular(kernel)  # [G, M, t, s]
    if seen is None:
        return parts.flatten(1, 3) @ matrix.permute(0, 3, 2, 1).flatten(2)
    hidden = matrix[:, :, None, None] * seen.each
    return torch.einsum("gmbnts,gdbns->gdbntm", hidden, parts)


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
