"""The token shift of RWKV: what the previous step of a document was."""

import torch
from torch import Tensor, nn

from matrixstate.ops import accumulation_dtype, causal_conv


class TokenShift(nn.Module):
    """Every step's previous step of the same document, zeros before the first: a causal filter of weights (1, 0).

    State: the last step [B, 1, width]. Source: Peng et al. 2023, "RWKV".
    """

    weight: Tensor  # [width, 2]
    conv_flops = 0  # a copy

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor([[1.0, 0.0]]).repeat(width, 1), persistent=False)

    def forward(
        self, x: Tensor, state: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, width] -> the previous steps [B, T, width], and the state; arguments as of `ops.causal_conv`."""
        return causal_conv(x, self.weight, None, state, mask=mask, reset=reset)

    def init_state(self, batch: int) -> Tensor:
        """The state before the first step: zeros, at least float32."""
        return self.weight.new_zeros(batch, 1, len(self.weight), dtype=accumulation_dtype(self.weight.dtype))
