"""From systems in continuous time to steps."""

import torch
from torch import Tensor


def complex_expm1(z: Tensor) -> Tensor:
    """e^z - 1 of complex z, without its cancellation where |z| is small."""
    x, y = z.real, z.imag
    # the real part is e^x cos y - 1, and cos y - 1 = -2 sin²(y/2)
    return torch.complex(torch.expm1(x) * y.cos() - 2 * (y / 2).sin().square(), x.exp() * y.sin())


def zoh(A: Tensor, B: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Ā = e^{ΔA} and B̄ = ∫ e^{sA} ds B over 0 <= s <= Δ: dm/dt = A m + B f with f held over steps of length Δ.

    Both are parts of the exponential of Δ [[A, B], [0, 0]], which needs no inverse of A. In float64, rounded once.

    Args:
        A: [..., N, N].
        B: [..., N].
        step: [...], Δ.
    """
    system = torch.cat([A, B[..., None]], dim=-1).to(_exact(A))
    system = torch.nn.functional.pad(system, (0, 0, 0, 1)) * step.to(system.dtype)[..., None, None]
    whole = torch.linalg.matrix_exp(system).to(A.dtype)
    return whole[..., :-1, :-1], whole[..., :-1, -1]


def bilinear(A: Tensor, B: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Ā = (I - ΔA/2)⁻¹ (I + ΔA/2) and B̄ = (I - ΔA/2)⁻¹ ΔB: the trapezoidal rule. Arguments and precision as `zoh`."""
    step = step.to(_exact(A))
    half = A.to(step.dtype) * step[..., None, None] / 2
    identity = torch.eye(A.shape[-1], dtype=step.dtype, device=A.device)
    write = (step[..., None] * B)[..., None]
    sizes = torch.broadcast_shapes(half.shape[:-2], write.shape[:-2])
    right = torch.cat([(identity + half).expand(*sizes, -1, -1), write.expand(*sizes, -1, -1)], dim=-1)
    both = torch.linalg.solve(identity - half, right).to(A.dtype)
    return both[..., :-1], both[..., -1]


def _exact(like: Tensor) -> torch.dtype:
    """float64, but float32 on a device without it."""
    return torch.float32 if like.device.type == "mps" else torch.float64
