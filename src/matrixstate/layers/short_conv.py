"""The short causal convolution that most recurrent mixers put before their recurrence."""

import math

import torch
from torch import Tensor, nn

from matrixstate.ops import accumulation_dtype, causal_conv


class ShortConv(nn.Module):
    """Depthwise causal convolution of `kernel` steps, then silu unless told otherwise. Weights are [channels, kernel].

    State: the last kernel - 1 inputs [B, kernel-1, channels]. Weights and bias start uniform in ±1/√kernel, as those of
    `torch.nn.Conv1d`.
    """

    no_weight_decay = ("weight",)

    def __init__(self, channels: int, kernel: int, bias: bool = False, *, silu: bool = True) -> None:
        super().__init__()
        self.silu = silu
        limit = 1 / math.sqrt(kernel)
        self.weight = nn.Parameter(torch.empty(channels, kernel).uniform_(-limit, limit))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-limit, limit)) if bias else None

    def forward(
        self, x: Tensor, state: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, channels] -> [B, T, channels], and the state; arguments as of `ops.causal_conv`."""
        activation = "silu" if self.silu else None
        return causal_conv(x, self.weight, self.bias, state, activation=activation, mask=mask, reset=reset)

    def init_state(self, batch: int) -> Tensor:
        """The state before the first step: zeros, at least float32."""
        channels, kernel = self.weight.shape
        return self.weight.new_zeros(batch, kernel - 1, channels, dtype=accumulation_dtype(self.weight.dtype))
