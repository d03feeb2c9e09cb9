"""LEM: two states with their own learned time steps."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from matrixstate.layers.mixer import About, make_config
from matrixstate.mixers.cells.cell_mixer import MatrixCellConfig
from matrixstate.mixers.cells.named_cell import NamedCellMixer
from matrixstate.ops import CELLS


@dataclass(frozen=True)
class LEMConfig(MatrixCellConfig):
    """z_t = (1 - d1) z + d1 tanh(y W_z + x_z), y_t = (1 - d2) y + d2 tanh(z_t W_y + x_y), d1, d2 = σ(y W + x).

    Both gates see y_{t-1}, y_t the new z_t. The step of time of the paper is 1. Source: Rusch et al. 2022, "Long
    Expressive Memory for Sequence Modeling".
    """

    about: ClassVar[About] = About(
        recurrence="z = (1 - d1) z + d1 tanh(y W + x); y = (1 - d2) y + d2 tanh(z W + x); d1, d2 = σ(y W + x)",
        state="2 x heads x head_size",
        op="cell_scan",
        source="Rusch et al. 2022, arXiv:2110.04744",
        forms=("step",),
    )

    def make(self, width: int) -> "LEM":
        return LEM(width, self)


class LEMState(NamedTuple):
    """The state of a LEM."""

    y: Tensor  # [B, H, d], the output
    z: Tensor  # [B, H, d]


class LEM(NamedCellMixer):
    """The mixer of `LEMConfig`. Inputs and weights are ordered d1, d2, z, y. State: `LEMState`.

    All weights and biases start uniform in ±1/√d.
    """

    state_of = LEMState

    def __init__(self, width: int, config: LEMConfig | None = None, **options: Any) -> None:
        super().__init__(width, make_config(LEMConfig, width, config, options), CELLS["lem"])
        nn.init.uniform_(self.bias, -(self.size**-0.5), self.size**-0.5)
