"""A linear map by the faster of PyTorch's libraries."""

from torch import Tensor, nn

from matrixstate.ops import linear


class Linear(nn.Linear):
    """torch.nn.Linear, whose large products take the faster library; see `ops.linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
