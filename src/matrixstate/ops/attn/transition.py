"""Scores through running products of matrices: the general form of rotary positions.

A key passes through the matrices of all later steps. In the cache it has done so; within a call it does so chunk by
chunk, since a matrix without an inverse cannot be taken out of the products of all steps.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from matrixstate.ops._dynamic import is_dynamic, over_chunks
from matrixstate.ops.matrix import matrix_scan

CHUNK = 16  # steps


def scores_through(q: Tensor, keys: Tensor, transition: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """q_i·((X_{j+1} ... X_i)ᵀ k_j) for every new step i and every step j <= i; what stands at j > i means nothing.

    Args:
        q: [B, T, H, K].
        keys: [B, S + T, G, K], those of the S cached steps as they are after the last cached step.
        transition: [B, T, G · K/D, D, D], X, of groups of D channels of each key head.
        mask: [B, T] bool or None. A padded step counts as the identity.

    All are of one dtype, at least float32.

    Returns:
        scores: [B, H, T, S + T].
        keys: [B, S + T, G, K], as they are after the last step.
    """
    identity = torch.eye(transition.shape[-1], dtype=q.dtype, device=q.device)
    X = transition if mask is None else torch.where(mask[..., None, None, None], transition, identity)
    return _by_steps(q, keys, X) if is_dynamic(q.shape[1]) else _by_chunks(q, keys, X, identity)


def _by_chunks(q: Tensor, keys: Tensor, X: Tensor, identity: Tensor) -> tuple[Tensor, Tensor]:
    (B, T, H, K), (N, G), D = q.shape, keys.shape[1:3], X.shape[-1]
    L = min(T, CHUNK)
    n, S = -(-T // L), N - T
    extra = n * L - T
    X = torch.cat([X, identity.expand(B, extra, *X.shape[2:])], dim=1)
    begins = (torch.arange(n * L, device=q.device) % L == 0).expand(B, -1)
    products, _ = matrix_scan(X, reset=begins)  # R, of each chunk's steps so far
    X, R = (a.reshape(B, n, L, G, K // D, D, D) for a in (X, products))
    q = pad(q, (0, 0, 0, 0, 0, extra)).view(B, n, L, G, H // G, K // D, D)
    new = pad(keys[:, S:], (0, 0, 0, 0, 0, extra)).view(B, n, L, G, K // D, D)
    within, new = _within(q, new, X)
    turned = torch.einsum("bnlgpij,bnlgrpj->bnlgrpi", R, q)
    past, rows = keys[:, :S].reshape(B, S, G, K // D, D), []
    for c in range(n):
        earlier = torch.einsum("blgrpd,bsgpd->bgrls", turned[:, c], past)
        rows.append(pad(torch.cat([earlier, within[:, c]], dim=-1), (0, (n - 1 - c) * L)))
        own = new[:, c] if c + 1 < n else new[:, c, : L - extra]
        past = torch.cat([torch.einsum("bgpij,bsgpi->bsgpj", R[:, c, -1], past), own], dim=1)
    scores = torch.cat(rows, dim=3)[..., :T, :N].flatten(1, 2)
    return scores, past.flatten(3)


def _within(q: Tensor, k: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of each chunk's own steps [B, n, G, H/G, L, L], and their keys [B, n, L, G, K/D, D] at its end."""
    L, keys, rows = q.shape[2], k[:, :, :0], []
    for t in range(L):
        keys = torch.cat([torch.einsum("bngpij,bnlgpi->bnlgpj", X[:, :, t], keys), k[:, :, t : t + 1]], dim=2)
        row = torch.einsum("bngrpd,bnlgpd->bngrl", q[:, :, t], keys)
        rows.append(pad(row, (0, L - 1 - t)))
    return torch.stack(rows, dim=4), keys


def _by_steps(q: Tensor, keys: Tensor, X: Tensor) -> tuple[Tensor, Tensor]:
    """One step after another, in graphs that hold for any length."""
    (B, T, H, K), (N, G), D = q.shape, keys.shape[1:3], X.shape[-1]
    place = (torch.arange(T, device=q.device) + (N - T)).expand(B, T)  # of each step's own key

    def step(q: Tensor, X: Tensor, place: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        earlier = torch.arange(N, device=q.device) < place
        moved = torch.einsum("bgpij,bngpi->bngpj", X.view(B, G, K // D, D, D), keys.view(B, N, G, K // D, D))
        keys = torch.where(earlier[..., None, None], moved.flatten(3), keys)
        scores = torch.einsum("bgrk,bngk->bgrn", q.view(B, G, H // G, K), keys)
        return scores.flatten(1, 2)[:, None], keys

    scores, keys = over_chunks(step, (q, X, place), keys, 1)  # a padded step's place is 0: it moves no key
    return scores.transpose(1, 2), keys
