"""RMSNorm computed in the dtype of its weight, under autocast too, and the norm of each head by itself."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from matrixstate.ops import accumulation_dtype

EPS = 1e-5  # added to the mean square


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x²) + 1e-5) * weight over the last axis, or over each of `groups` parts of it by itself.

    Source: Zhang & Sennrich 2019.
    """

    def __init__(self, channels: int, groups: int = 1) -> None:
        super().__init__(channels, eps=EPS)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """x [..., channels] -> [..., channels].

        Computed in the dtype of the weight, and returned in it, except that a float32 norm between bfloat16 layers
        returns bfloat16, which the next layer needs. Under autocast the next layer casts its input itself.
        """
        wide = self.weight.dtype
        y = super().forward(x.to(wide)) if self.groups == 1 else self._normalise_groups(x.to(wide))
        narrow = x.dtype != wide and torch.promote_types(x.dtype, wide) == wide
        return y.to(x.dtype) if narrow and not torch.is_autocast_enabled(x.device.type) else y

    def _normalise_groups(self, x: Tensor) -> Tensor:
        parts = x.unflatten(-1, (self.groups, -1))
        return rms_norm(parts, parts.shape[-1:], eps=EPS).flatten(-2) * self.weight


class HeadNorm(nn.Module):
    """Layer norm over each head's channels, then a weight and a bias per channel: group norm with heads as groups."""

    no_weight_decay = ("weight", "bias")

    def __init__(self, heads: int, channels: int, eps: float = EPS, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(heads, channels))
        self.bias = nn.Parameter(torch.zeros(heads, channels)) if bias else None
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., heads, channels] -> the same shape; computed in at least float32."""
        y = layer_norm(x.to(accumulation_dtype(x.dtype)), x.shape[-1:], eps=self.eps)
        y = y.to(x.dtype) * self.weight
        return y if self.bias is None else y + self.bias
