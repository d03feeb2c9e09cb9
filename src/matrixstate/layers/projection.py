"""Linear maps initialised as GPT-2's: normal weights, no bias."""

from torch import nn

from matrixstate.layers.linear import Linear


def projection(inputs: int, outputs: int, std: float = 0.02) -> Linear:
    """A linear map without bias, its weights normal with standard deviation `std` (zeros for 0)."""
    linear = Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=std)
    return linear
