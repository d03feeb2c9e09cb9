"""Multiplicative LSTM: an LSTM whose recurrent weights depend on the token."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from matrixstate.layers.mixer import About, make_config
from matrixstate.mixers.cells.cell_mixer import MatrixCellConfig
from matrixstate.mixers.cells.named_cell import NamedCellMixer
from matrixstate.ops import CELLS, LSTMState


@dataclass(frozen=True)
class MultiplicativeLSTMConfig(MatrixCellConfig):
    """m = x_m (h_{t-1} W_m) elementwise, then the LSTM with m in place of h_{t-1} in all its gates.

    Source: Krause et al. 2016, "Multiplicative LSTM for sequence modelling".
    """

    about: ClassVar[About] = About(
        recurrence="m = x_m (h W_m); i, f, o = σ(m W_· + x_·); c = f c + i tanh(m W + x); h = o tanh(c); y = h",
        state="2 x heads x head_size",
        op="cell_scan",
        source="Krause et al. 2016, arXiv:1609.07959",
        forms=("step",),
    )

    def make(self, width: int) -> "MultiplicativeLSTM":
        return MultiplicativeLSTM(width, self)


class MultiplicativeLSTM(NamedCellMixer):
    """The mixer of `MultiplicativeLSTMConfig`. Inputs and weights are ordered candidate, input, forget, output, m.

    State: `LSTMState` of h and c, [B, H, d] each. The bias of the forget gate starts at 1.
    """

    state_of = LSTMState

    def __init__(self, width: int, config: MultiplicativeLSTMConfig | None = None, **options: Any) -> None:
        config = make_config(MultiplicativeLSTMConfig, width, config, options)
        super().__init__(width, config, CELLS["multiplicative_lstm"])
        nn.init.ones_(self.bias.data[2])  # of the forget gate
