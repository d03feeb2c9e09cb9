"""RegularLRNN: a linear recurrence with block-diagonal matrices made by an MLP of the token and kept from growing."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import relu

from matrixstate.errors import require
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, MixerConfig, at_least, make_config, one_of, positive
from matrixstate.layers.projection import projection
from matrixstate.mixers.matrix.row_mixer import RowMixer
from matrixstate.ops import accumulation_dtype


@dataclass(frozen=True)
class RegularLRNNConfig(MixerConfig):
    """h_t = h_{t-1} A_t + W x_t, y_t = W_o h_t, with a block A_t of order d per head, made of the token.

    A_t = M / |M|, M the output of a two-layer MLP whose columns are centred, and |M| the largest p-norm of its columns
    (or, per column, its own). As p-norms of at most 1 for p <= 2 bound what a step can do, h does not grow without
    bound. Source: Fan et al. 2024, "Advancing Regular Language Reasoning in Linear Recurrent Neural Networks"; whether
    the norm is one per block or one per column is not clear from it.
    """

    about: ClassVar[About] = About(
        recurrence="h = h A + W x; y = h; A = M / max_j |M_j|_p, M an MLP of x with centred columns, a block per head",
        state="heads x order",
        op="matrix_scan",
        source="Fan et al. 2024, arXiv:2309.07412",
        forms=("parallel", "step"),
    )

    heads: int = 8
    """Blocks of A."""
    order: int = 8
    """d, the order of a block."""
    hidden: int | None = None
    """Hidden channels of the MLP. Default: the width."""
    p: float = 1.2
    """Of the p-norm."""
    norm: Literal["block", "column"] = "block"
    """What a column is divided by: the largest norm of its block's columns, or its own."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads", "order", *(["hidden"] if self.hidden is not None else [])),
            *positive(self, "p"),
            one_of(self, "norm", "block", "column"),
        )

    def make(self, width: int) -> "RegularLRNN":
        return RegularLRNN(width, self)


class RegularLRNN(RowMixer):
    """The mixer of `RegularLRNNConfig`. The MLP starts as `torch.nn.Linear` does."""

    config: RegularLRNNConfig

    def __init__(self, width: int, config: RegularLRNNConfig | None = None, **options: Any) -> None:
        config = make_config(RegularLRNNConfig, width, config, options)
        super().__init__()
        self.config, self.width = config, width
        H, d, hidden = config.heads, config.order, config.hidden or width
        self.first, self.second = Linear(width, hidden), Linear(hidden, H * d * d)
        self.inputs = projection(width, H * d, 1 / math.sqrt(width))
        self.output = projection(H * d, width)

    def matrices(self, x: Tensor) -> Tensor:
        """A [B, T, H, d, d], in at least float32."""
        H, d, p = self.config.heads, self.config.order, self.config.p
        M = self.second(relu(self.first(x))).unflatten(-1, (H, d, d))
        M = M.to(accumulation_dtype(M.dtype))
        M = M - M.mean(dim=-2, keepdim=True)
        # the smallest number keeps the derivative of |M|^p finite at 0
        norms = (M.abs() + torch.finfo(M.dtype).tiny).pow(p).sum(dim=-2, keepdim=True).pow(1 / p)
        norms = norms if self.config.norm == "column" else norms.amax(dim=-1, keepdim=True)
        return M / norms.clamp(min=1e-6)

    def writes(self, x: Tensor, A: Tensor, begins: Tensor) -> Tensor:
        return self.inputs(x).unflatten(-1, (self.config.heads, 1, self.config.order))
