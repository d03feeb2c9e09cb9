"""The Elman recurrent network."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from matrixstate.layers.mixer import About, State, make_config
from matrixstate.mixers.cells.cell_mixer import CellMixer, MatrixCellConfig
from matrixstate.ops import rnn_scan


@dataclass(frozen=True)
class RNNConfig(MatrixCellConfig):
    """h_t = tanh(h_{t-1} W + U x_t + b), y_t = O h_t. Source: Elman 1990, "Finding Structure in Time"."""

    about: ClassVar[About] = About(
        recurrence="h = tanh(h W + U x + b); y = h",
        state="heads x head_size",
        op="rnn_scan",
        source='Elman 1990, "Finding Structure in Time"',
        forms=("step",),
    )

    def make(self, width: int) -> "RNN":
        return RNN(width, self)


class RNN(CellMixer):
    """The mixer of `RNNConfig`. State: h [B, H, d]."""

    inputs_per_cell = 1

    def __init__(self, width: int, config: RNNConfig | None = None, **options: Any) -> None:
        super().__init__(width, make_config(RNNConfig, width, config, options))

    def scan(
        self, inputs: list[Tensor], weights: list[Tensor], state: State, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        clip = self.config.grad_clip
        return rnn_scan(inputs[0], weights[0], state, grad_clip=clip, mask=mask, reset=reset)
