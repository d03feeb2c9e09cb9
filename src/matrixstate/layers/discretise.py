"""From systems in continuous time to steps."""

import torch
from torch import Tensor


def complex_expm1(z: Tensor) -> Tensor:
    """e^z - 1 of complex z, without its cancellation where |z| is small."""
    x, y = z.real, z.imag
    # the real part is e^x cos y - 1, and cos y - 1 = -2 sin²(y/2)
    return torch.complex(torch.expm1(x) * y.cos() - 2 * (y / 2).sin().square(), x.exp() * y.sin())
