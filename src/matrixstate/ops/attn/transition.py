"""Scores through running products of matrices: the general form of rotary positions.

A key passes through the matrices of all later steps. In the cache it has done so; within a call it does so chunk by
chunk, since a matrix without an inverse cannot be taken out of the products of all steps.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from matrixstate.ops.matrix import matrix_scan

CHUNK = 16  # steps


def scores_through(q: Tensor, keys: Tensor, transition: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """q_i·((X_{j+1} ... X_i)ᵀ k_j) for every new step i and every step j; 0 where j > i.

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
    (B, T, H, K), (N, G), D = q.shape, keys.shape[1:3], transition.shape[-1]
    L = min(T, CHUNK)
    n, S = -(-T // L), N - T
    extra = n * L - T
    identity = torch.eye(D, dtype=q.dtype, device=q.device)
    X = transition if mask is None else torch.where(mask[..., None, None, None], transition, identity)
    X = torch.cat([X, identity.expand(B, extra, *transition.shape[2:])], dim=1)
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
