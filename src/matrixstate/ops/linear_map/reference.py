"""The definition of a linear map: PyTorch's. Its gradient is autograd's."""

import torch
from torch.nn.functional import linear

__all__ = ["linear"]


def unsupported(device: str, dtype: torch.dtype) -> str | None:
    return None
