"""A map through few channels, as of gates that depend on the token at a small cost, and matrices of a low rank."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.ops._checks import full_precision


class LowRank(Float32Parameters):
    """W_2 act(W_1 x), plus b where one is given, with W_1 [rank, inputs] and W_2 [outputs, rank].

    b stays float32 under narrower dtypes, for it may be the logarithm of a rate, and has no weight decay.

    Args:
        inputs, rank, outputs: channels before, between and after the two maps.
        act: applied between them. Default: nothing.
        bias: b [outputs] at initialisation. Default: no bias.
        std: standard deviation of the weights at initialisation, which are normal; zeros for 0.
    """

    bias: nn.Parameter | None
    no_weight_decay = float32 = ("bias",)

    def __init__(
        self,
        inputs: int,
        rank: int,
        outputs: int,
        act: Callable[[Tensor], Tensor] | None = None,
        bias: Tensor | None = None,
        std: float = 0.02,
    ) -> None:
        super().__init__()
        self.first, self.second, self.act = projection(inputs, rank, std), projection(rank, outputs, std), act
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] -> [..., outputs], in the dtype of the bias where there is one."""
        x = self.first(x)
        x = self.second(x if self.act is None else self.act(x))
        return x if self.bias is None else x.to(self.bias.dtype) + self.bias


class LowRankMatrices(nn.Module):
    """Matrices A B, or A B + diag(u), with A [..., d, rank], B [..., rank, d] and u [..., d].

    A and B start uniform in ±sqrt(6 / (d + rank)), u in ±0.01, as those of Miceli Barone 2016, "Low-rank passthrough
    neural networks", in its author's code.

    Args:
        shape: the axes before the matrices' own.
        size: d.
        rank: columns of A.
        diagonal: whether there is a u.
    """

    diagonal: nn.Parameter | None
    no_weight_decay = ("left", "right", "diagonal")

    def __init__(self, shape: Sequence[int], size: int, rank: int, diagonal: bool = True) -> None:
        super().__init__()
        limit = (6 / (size + rank)) ** 0.5
        self.left = nn.Parameter(torch.empty(*shape, size, rank).uniform_(-limit, limit))
        self.right = nn.Parameter(torch.empty(*shape, rank, size).uniform_(-limit, limit))
        u = torch.empty(*shape, size).uniform_(-0.01, 0.01) if diagonal else None
        self.register_parameter("diagonal", None if u is None else nn.Parameter(u))

    def forward(self) -> Tensor:
        """The matrices [..., d, d], made anew in every call, in the parameters' dtype under autocast too."""
        with full_precision(self.left):
            whole = self.left @ self.right
        return whole if self.diagonal is None else whole + torch.diag_embed(self.diagonal)
