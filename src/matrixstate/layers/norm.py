"""Root-mean-square norm with its sums in the precision of its weight, under autocast too."""

from torch import Tensor, nn

EPS = 1e-5  # added to the mean square


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight over the last axis. Source: Zhang & Sennrich 2019."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., channels] -> the same, in the dtype of the weight."""
        return super().forward(x.to(self.weight.dtype))
