"""Root-mean-square norm with its sums in the precision of its weight, under autocast too."""

from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight over the last axis. Source: Zhang & Sennrich 2019."""

    eps: float

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., channels] -> the same, in the dtype of the weight."""
        return super().forward(x.to(self.weight.dtype))
