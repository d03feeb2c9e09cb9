"""The short causal convolution that most recurrent mixers put before their recurrence."""

import math

import torch
from torch import Tensor, nn

from matrixstate.ops import accumulation_dtype, causal_conv


class ShortConv(nn.Module):
    """Depthwise causal convolution of `kernel` steps, then silu. State: the last kernel - 1 inputs [B, kernel-1, C]."""

    no_weight_decay = ("weight",)

    def __init__(self, channels: int, kernel: int, bias: bool = False) -> None:
        super().__init__()
        reach = 1 / math.sqrt(kernel)
        self.weight = nn.Parameter(torch.empty(channels, kernel).uniform_(-reach, reach))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-reach, reach)) if bias else None

    def forward(
        self, x: Tensor, state: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, C] -> [B, T, C] and the state."""
        return causal_conv(x, self.weight, self.bias, state, activation="silu", mask=mask, reset=reset)

    def init_state(self, batch: int) -> Tensor:
        channels, kernel = self.weight.shape
        return self.weight.new_zeros(batch, kernel - 1, channels, dtype=accumulation_dtype(self.weight.dtype))
