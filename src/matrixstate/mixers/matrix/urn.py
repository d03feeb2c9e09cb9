"""URN: a state of length one that every token rotates."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from matrixstate.errors import require
from matrixstate.layers.mixer import About, MixerConfig, at_least, make_config, one_of
from matrixstate.layers.projection import projection
from matrixstate.layers.state_matrix import BUILDERS, build_state_matrix
from matrixstate.mixers.matrix.row_mixer import RowMixer


@dataclass(frozen=True)
class URNConfig(MixerConfig):
    """h_t = h_{t-1} Q(x_t), y_t = W h_t, with Q = exp(L - Lᵀ) and L the strictly lower triangle that W_q x_t gives.

    h starts as the first unit vector, which any other is by another W_q and W, and nothing is added: its length is 1.
    Source: Bernardy & Lappin 2022, "Assessing the Unitary RNN as an End-to-End Compositional Model of Syntax", where
    each word has its own L, as here in a first layer.
    """

    about: ClassVar[About] = About(
        recurrence="h = h Q, Q = exp(L - L^T), L = W x: every rotation; y = h",
        state="heads x order",
        op="matrix_scan",
        source="Bernardy & Lappin 2022",
        forms=("parallel", "step"),
    )

    heads: int = 8
    """Blocks of Q; 1 is the paper's model."""
    order: int = 8
    """d, the order of a block."""
    rotation: Literal["matrix_exp", "cayley"] = "matrix_exp"
    """How a rotation is made of L - Lᵀ; the Cayley map has no eigenvalue -1."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "heads"), *at_least(2, self, "order"))
        require(one_of(self, "rotation", "matrix_exp", "cayley"))

    def make(self, width: int) -> "URN":
        return URN(width, self)


class URN(RowMixer):
    """The mixer of `URNConfig`. At initialisation the elements of L are normal with variance 1/d for such inputs."""

    config: URNConfig

    def __init__(self, width: int, config: URNConfig | None = None, **options: Any) -> None:
        config = make_config(URNConfig, width, config, options)
        super().__init__()
        self.config, self.width = config, width
        elements = BUILDERS[config.rotation].elements(config.order)
        self.generators = projection(width, config.heads * elements, 1 / math.sqrt(width * config.order))
        self.output = projection(config.heads * config.order, width)

    def matrices(self, x: Tensor) -> Tensor:
        elements = self.generators(x).unflatten(-1, (self.config.heads, -1))
        return build_state_matrix(self.config.rotation, elements, self.config.order)

    def writes(self, x: Tensor, A: Tensor, begins: Tensor) -> Tensor:
        return torch.where(begins[..., None, None, None], A[..., :1, :], 0)
