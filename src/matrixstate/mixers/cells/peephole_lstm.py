"""LSTM with peepholes, and its variants: without one of its parts, or with full gate recurrence."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from matrixstate.layers.mixer import About, make_config, one_of
from matrixstate.mixers.cells.cell_mixer import MatrixCellConfig
from matrixstate.mixers.cells.named_cell import NamedCellMixer
from matrixstate.ops import CELLS, LSTMState

VARIANTS = {  # the cells that they are
    "vanilla": "peephole_lstm",
    "NIG": "lstm_no_input_gate",
    "NFG": "lstm_no_forget_gate",
    "NOG": "lstm_no_output_gate",
    "NIAF": "lstm_linear_input",
    "NOAF": "lstm_linear_output",
    "CIFG": "lstm_coupled",
    "FGR": "lstm_full_gate_recurrence",
}


@dataclass(frozen=True)
class PeepholeLSTMConfig(MatrixCellConfig):
    """i, f = σ(h W· + p· c + x·), c_t = f c + i tanh(h W + x), o = σ(h W_o + p_o c_t + x_o), h_t = o tanh(c_t).

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey"; peepholes: Gers & Schmidhuber 2000.
    """

    about: ClassVar[About] = About(
        recurrence="i, f = σ(h W + p c + x); c = f c + i tanh(h W + x); o = σ(h W + p c + x); h = o tanh(c); y = h",
        state="2 x heads x head_size",
        op="cell_scan",
        source="Greff et al. 2017, arXiv:1503.04069",
        forms=("step",),
    )

    variant: Literal["vanilla", "NIG", "NFG", "NOG", "NIAF", "NOAF", "CIFG", "FGR"] = "vanilla"
    """What is left out: input, forget or output gate (NIG, NFG, NOG), the tanh at the input or the output (NIAF, NOAF),
    the input gate for 1 - f (CIFG). With full gate recurrence (FGR) each gate also sees all gates of the step before,
    by nine more matrices. Without peepholes (NP) it is the mixer `lstm`."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), one_of(self, "variant", *VARIANTS)]

    def make(self, width: int) -> "PeepholeLSTM":
        return PeepholeLSTM(width, self)


class FullGateState(NamedTuple):
    """The state of the variant FGR; every tensor is [B, H, d]."""

    h: Tensor  # the output
    c: Tensor  # the cell
    i: Tensor  # the gates
    f: Tensor
    o: Tensor


class PeepholeLSTM(NamedCellMixer):
    """The mixer of `PeepholeLSTMConfig`. Inputs and weights are ordered candidate, input, forget, output; a gate that
    a variant has not is missing.

    State: `LSTMState` of h and c, [B, H, d] each, or `FullGateState`. Peepholes start at 0, the bias of the forget gate
    at 1.
    """

    no_weight_decay = ("bias", "recurrent", "peepholes")

    def __init__(self, width: int, config: PeepholeLSTMConfig | None = None, **options: Any) -> None:
        config = make_config(PeepholeLSTMConfig, width, config, options)
        super().__init__(width, config, CELLS[VARIANTS[config.variant]])
        self.state_of = FullGateState if config.variant == "FGR" else LSTMState
        self.peepholes = nn.Parameter(torch.zeros(len(self.cell.vectors), config.heads, self.size))
        if "xf" in self.cell.inputs:
            nn.init.ones_(self.bias.data[self.cell.inputs.index("xf")])

    def all_weights(self, recurrent: list[Tensor]) -> list[Tensor]:
        return [*recurrent, *self.peepholes]
