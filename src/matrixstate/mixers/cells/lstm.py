"""Long short-term memory."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matrixstate.layers.mixer import About, State, make_config
from matrixstate.mixers.cells.cell_mixer import CellMixer, MatrixCellConfig
from matrixstate.ops import LSTMState, lstm_scan


@dataclass(frozen=True)
class LSTMConfig(MatrixCellConfig):
    """i, f, o = σ(h W + x) each; c_t = f c_{t-1} + i tanh(h_{t-1} W + x), h_t = o tanh(c_t), y_t = O h_t.

    The x are projections of the input with biases.
    Sources: Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000.
    """

    about: ClassVar[About] = About(
        recurrence="i, f, o = σ(h W_· + x_·); c = f c + i tanh(h W + x); h = o tanh(c); y = h",
        state="2 x heads x head_size",
        op="lstm_scan",
        source='Hochreiter & Schmidhuber 1997, "Long Short-Term Memory"',
        forms=("step",),
    )

    def make(self, width: int) -> "LSTM":
        return LSTM(width, self)


class LSTM(CellMixer):
    """The mixer of `LSTMConfig`. Inputs and weights are ordered candidate, input, forget, output.

    State: `LSTMState` of h and c, [B, H, d] each. The bias of the forget gate starts at 1, so that the cell does not
    forget at initialisation (Gers et al. 2000).
    """

    inputs_per_cell = 4

    def __init__(self, width: int, config: LSTMConfig | None = None, **options: Any) -> None:
        super().__init__(width, make_config(LSTMConfig, width, config, options))
        torch.nn.init.ones_(self.bias.data[2])  # of the forget gate

    def scan(
        self, inputs: list[Tensor], weights: list[Tensor], state: State, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        clip = self.config.grad_clip
        return lstm_scan(*inputs, *weights, state=state, grad_clip=clip, mask=mask, reset=reset)

    def _zeros(self, batch: int) -> LSTMState:
        return LSTMState(super()._zeros(batch), super()._zeros(batch))
