"""The matrices of HiPPO: dm/dt = A m + B f keeps the coefficients of the past of f in a basis of polynomials.

All are float64 on the CPU. They must not be diagonalised, for their eigenvectors are nearly parallel.

Sources: Gu et al. 2020, "HiPPO: Recurrent Memory with Optimal Polynomial Projections"; Voelker et al. 2019, "Legendre
Memory Units"; Gu et al. 2022, "Efficiently Modeling Long Sequences with Structured State Spaces" (the normal part).
"""

import torch
from torch import Tensor


def legs(n: int) -> tuple[Tensor, Tensor]:
    """A [n, n] and B [n] of LegS, Legendre polynomials over the whole past, with dm/dt = (A m + B f)/t.

    A_ik = -√(2i+1) √(2k+1) below the diagonal and -(i+1) on it, B_i = √(2i+1).
    """
    root = _roots(n)
    return -torch.outer(root, root).tril(-1) - torch.diag(_degrees(n) + 1), root


def legt(n: int) -> tuple[Tensor, Tensor]:
    """A [n, n] and B [n] of LegT, Legendre polynomials over a window of length 1 before now, orthonormal in it.

    A_ik = -√(2i+1) √(2k+1), times (-1)^{i-k} above the diagonal, B_i = √(2i+1).
    """
    root = _roots(n)
    signed = root * (-1) ** _degrees(n)
    return -torch.outer(root, root).tril() - torch.outer(signed, signed).triu(1), root


def lmu(n: int) -> tuple[Tensor, Tensor]:
    """A [n, n] and B [n] of the Legendre memory unit: LegT with coefficients of the polynomials P_i(2s - 1) themselves.

    f at s before now is Σ_i P_i(2s - 1) m_i, 0 <= s <= 1. A_ik = (2i+1) (-1)^{i-k+1}, but -(2i+1) above the diagonal,
    B_i = (2i+1) (-1)^i.
    """
    A, B = legt(n)
    scale = _roots(n) * (-1) ** _degrees(n)
    return scale[:, None] * A / scale, scale * B


def lagt(n: int) -> tuple[Tensor, Tensor]:
    """A [n, n] and B [n] of LagT, Laguerre polynomials over a past that fades exponentially: A is -1 below the diagonal
    and -1/2 on it, B is 1.
    """
    ones = torch.ones(n, n, dtype=torch.float64, device="cpu")
    return torch.diag(ones[0]) / 2 - ones.tril(), ones[0].clone()


def legs_normal(n: int) -> tuple[Tensor, Tensor]:
    """Λ [n/2] complex and P [n/2] real >= 0: LegS of an even size n in conjugate pairs, diag(Λ) - P Pᵀ.

    LegS and P Pᵀ, with P_i = √(i + 1/2), add up to -1/2 and a skew matrix, which a unitary basis makes diagonal.
    Of each pair the one with the negative imaginary part is kept, and phases are such that P is real. B is √2 P.
    """
    A, B = legs(n)
    P = B / 2**0.5
    skew = A + torch.outer(P, P) + 0.5 * torch.eye(n, dtype=torch.float64, device="cpu")
    frequency, basis = torch.linalg.eigh(-1j * skew)  # in ascending order
    P = (basis.mH @ P.to(basis.dtype)).abs()
    return torch.complex(torch.full_like(frequency, -0.5), frequency)[: n // 2], P[: n // 2]


def real_form(decay: Tensor, P: Tensor) -> Tensor:
    """diag(Λ) - P P* of conjugate pairs as a real matrix [..., N, N] of the N/2 real parts, then the imaginary parts.

    Of the whole state [z, z̄], P* sees 2 Re(P* z), so that z goes to Λ z - 2 P Re(P* z).

    Args:
        decay: [..., N/2], Λ of one of each pair, complex.
        P: [..., N] real: Re P, then Im P.
    """
    real, imag = torch.diag_embed(decay.real), torch.diag_embed(decay.imag)
    turn = torch.cat([torch.cat([real, -imag], dim=-1), torch.cat([imag, real], dim=-1)], dim=-2)
    return turn - 2 * P[..., :, None] * P[..., None, :]


def _degrees(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64, device="cpu")


def _roots(n: int) -> Tensor:
    """√(2i + 1)."""
    return (2 * _degrees(n) + 1).sqrt()
