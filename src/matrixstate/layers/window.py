"""The last few steps of a sequence side by side."""

import torch
from torch import Tensor, nn

from matrixstate.ops import accumulation_dtype, causal_conv


class Window(nn.Module):
    """Every step's last `steps` steps of the same document, the oldest first, zeros before the first.

    A linear map of them is a causal convolution that mixes channels. State: the last steps - 1 inputs
    [B, steps-1, width].
    """

    weight: Tensor  # [steps - 1, width, steps], a filter per earlier step that picks it out

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.width, self.steps = width, steps
        filters = torch.eye(steps)[: steps - 1, None, :].repeat(1, width, 1)
        self.register_buffer("weight", filters, persistent=False)

    def forward(
        self, x: Tensor, state: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """x [B, T, width] -> [B, T, steps * width], and the state; arguments as of `ops.causal_conv`."""
        earlier, last = [], None
        for weight in self.weight:
            step, last = causal_conv(x, weight, None, state, mask=mask, reset=reset)
            earlier.append(step)
        return torch.cat([*earlier, x], dim=-1), last

    def init_state(self, batch: int) -> Tensor | None:
        """The state before the first step: zeros, at least float32; None for one step."""
        if self.steps == 1:
            return None
        dtype = accumulation_dtype(self.weight.dtype)
        return self.weight.new_zeros(batch, self.steps - 1, self.width, dtype=dtype)
