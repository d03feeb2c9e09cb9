"""Linear maps, initialised as GPT-2's or as RetNet's."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from matrixstate.layers.linear import Linear


def projection(inputs: int, outputs: int, std: float = 0.02, *, bias: bool = False) -> Linear:
    """A linear map, its weights normal with standard deviation `std` (zeros for 0), its bias, if any, zero."""
    linear = Linear(inputs, outputs, bias=bias)
    nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


def xavier_parts(weights: Iterable[tuple[Tensor, Sequence[int]]], gain: float) -> None:
    """Draws weights [outputs, inputs] anew, each part of the outputs as a map of its own.

    A part of n outputs is uniform with variance 2 gain² / (inputs + n). Source: Glorot & Bengio 2010, eq. 16.
    """
    for weight, parts in weights:
        for part in weight.detach().split(list(parts)):
            nn.init.xavier_uniform_(part, gain)
