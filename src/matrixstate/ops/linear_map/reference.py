"""The definition of a linear map: PyTorch's. Its gradient is autograd's."""

from torch import Tensor
from torch.nn import functional

from matrixstate.ops._plain import unsupported

__all__ = ["linear", "unsupported"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x [..., K], weight [N, K], bias [N] or None -> [..., N]."""
    return functional.linear(x, weight, bias)
