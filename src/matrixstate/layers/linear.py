"""A linear map by the faster of PyTorch's libraries."""

from torch import Tensor, nn

from matrixstate.ops import linear


class Linear(nn.Linear):
    """torch.nn.Linear, whose large products take the faster library; see `ops.linear`."""

    training_backend = "auto"
    """The backend of its product in training mode."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias, backend=self.training_backend if self.training else "auto")
