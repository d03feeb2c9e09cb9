"""eLSTM: an LSTM whose gates see only the cell of their own unit."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matrixstate.layers.mixer import About, State, make_config
from matrixstate.mixers.cells.cell_mixer import CellConfig
from matrixstate.mixers.cells.named_cell import NamedCellMixer, only
from matrixstate.ops import CELLS


@dataclass(frozen=True)
class ELSTMConfig(CellConfig):
    """f = σ(v_f c + x_f), c_t = f c_{t-1} + (1 - f) tanh(v c_{t-1} + x), y_t = O (σ(c_t W + x_o) c_t).

    All but W is elementwise. Source: Irie et al. 2023, "Exploring the Promise and Limits of Real-Time Recurrent
    Learning".
    """

    about: ClassVar[About] = About(
        recurrence="f = σ(v_f c + x_f); c = f c + (1 - f) tanh(v c + x), elementwise; y = σ(c W + x_o) c",
        state="heads x head_size",
        op="cell_scan",
        source="Irie et al. 2023, arXiv:2305.19044",
        forms=("step",),
    )

    def make(self, width: int) -> "ELSTM":
        return ELSTM(width, self)


class ELSTM(NamedCellMixer):
    """The mixer of `ELSTMConfig`. Inputs are ordered candidate, forget, output. State: c [B, H, d].

    All weights but the last projection's start normal with standard deviation 0.1.
    """

    state_of = staticmethod(only)

    no_weight_decay = ("bias", "recurrent", "read")

    def __init__(self, width: int, config: ELSTMConfig | None = None, **options: Any) -> None:
        super().__init__(width, make_config(ELSTMConfig, width, config, options), CELLS["elstm"], more_inputs=1)
        H, d = self.config.heads, self.size
        nn.init.normal_(self.inputs.projection.weight, std=0.1)
        self.recurrent = nn.Parameter(0.1 * torch.randn(2, H, d))  # v, v_f
        self.read = nn.Parameter(0.1 * torch.randn(H, d, d))  # W

    def scan(
        self, inputs: list[Tensor], weights: list[Tensor], state: State, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        *inputs, gate = inputs
        c, last = super().scan(inputs, weights, state, mask, reset)
        return torch.sigmoid(torch.einsum("bthd,hde->bthe", c, self.read) + gate) * c, last

    def mixing_flops(self, length: int) -> int:
        return super().mixing_flops(length) + 2 * self.read.numel()
