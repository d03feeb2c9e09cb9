"""IndRNN: a recurrent network whose units see only their own last state."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matrixstate.layers.mixer import About, make_config, positive
from matrixstate.mixers.cells.cell_mixer import CellConfig
from matrixstate.mixers.cells.named_cell import NamedCellMixer, only
from matrixstate.ops import CELLS


@dataclass(frozen=True)
class IndRNNConfig(CellConfig):
    """h_t = relu(u h_{t-1} + x_t) elementwise, y_t = O h_t. Source: Li et al. 2018."""

    about: ClassVar[About] = About(
        recurrence="h = relu(u h + x), elementwise; y = h",
        state="heads x head_size",
        op="cell_scan",
        source="Li et al. 2018, arXiv:1803.04831",
        forms=("step",),
    )

    bound: float = 1.0
    """The largest |u|. The paper has 2^(1/T) for sequences of T steps: h at most doubles. 1 suits any length."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), *positive(self, "bound")]

    def make(self, width: int) -> "IndRNN":
        return IndRNN(width, self)


class IndRNN(NamedCellMixer):
    """The mixer of `IndRNNConfig`. State: h [B, H, d]. u starts uniform in [0, 1]."""

    state_of = staticmethod(only)
    config: IndRNNConfig

    def __init__(self, width: int, config: IndRNNConfig | None = None, **options: Any) -> None:
        super().__init__(width, make_config(IndRNNConfig, width, config, options), CELLS["indrnn"])
        self.recurrent = nn.Parameter(torch.rand(1, self.config.heads, self.size))

    def all_weights(self, recurrent: list[Tensor]) -> list[Tensor]:
        (u,), bound = recurrent, self.config.bound
        # the gradient is that of u itself, or a u beyond the bound would never return
        return [u + (u.clamp(-bound, bound) - u).detach()]
