"""A linear map by the faster of PyTorch's libraries, and one whose outputs are bounded."""

import torch
from torch import Tensor, nn

from matrixstate.ops import linear


class Linear(nn.Linear):
    """torch.nn.Linear, whose large products take the faster library; see `ops.linear`."""

    training_backend = "auto"
    """The backend of its product in training mode."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias, backend=self.training_backend if self.training else "auto")


class CappedLinear(Linear):
    """c tanh(W x / c), which is nearly W x where that is small and never leaves [-c, c]. The logits of
    Gemma's models."""

    def __init__(self, inputs: int, outputs: int, cap: float) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.cap = cap

    def forward(self, input: Tensor) -> Tensor:
        return self.cap * torch.tanh(super().forward(input) / self.cap)
