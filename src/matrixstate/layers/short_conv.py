"""The short causal convolution that most recurrent mixers put before their recurrence."""

import math

import torch
from torch import Tensor, nn

from matrixstate.layers.mixer import no_weight_decay
from matrixstate.ops import accumulation_dtype, causal_conv


class ShortConv(nn.Module):
    """Depthwise causal convolution of `kernel` steps, then silu. State: the last kernel - 1 inputs [B, kernel-1, C]."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, kernel))
        nn.init.uniform_(self.weight, -1 / math.sqrt(kernel), 1 / math.sqrt(kernel))
        no_weight_decay(self.weight)

    def forward(
        self, x: Tensor, state: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, C] -> [B, T, C] and the state."""
        return causal_conv(x, self.weight, state=state, activation="silu", mask=mask, reset=reset)

    def init_state(self, batch: int) -> Tensor:
        channels, kernel = self.weight.shape
        return self.weight.new_zeros(batch, kernel - 1, channels, dtype=accumulation_dtype(self.weight.dtype))
