"""A map through few channels, as of gates that depend on the token at a small cost."""

from collections.abc import Callable

from torch import Tensor, nn

from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection


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
