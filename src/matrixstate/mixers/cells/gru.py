"""The gated recurrent unit."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from matrixstate.layers.mixer import About, State, make_config
from matrixstate.mixers.cells.cell_mixer import CellMixer, MatrixCellConfig
from matrixstate.ops import gru_scan


@dataclass(frozen=True)
class GRUConfig(MatrixCellConfig):
    """f_t, r_t = σ(h W_f + x_f), σ(h W_r + x_r); h_t = f_t h_{t-1} + (1 - f_t) tanh((h_{t-1} r_t) W + x), y_t = O h_t.

    The x are projections of the input with biases. Source: Cho et al. 2014.
    """

    about: ClassVar[About] = About(
        recurrence="f, r = σ(h W_f + x_f), σ(h W_r + x_r); h = f h + (1 - f) tanh((h r) W + x); y = h",
        state="heads x head_size",
        op="gru_scan",
        source="Cho et al. 2014, arXiv:1406.1078",
        forms=("step",),
    )

    reset_after: bool = False
    """Apply the reset gate after the product, tanh(r (h W) + x), as cuDNN and PyTorch do."""

    def make(self, width: int) -> "GRU":
        return GRU(width, self)


class GRU(CellMixer):
    """The mixer of `GRUConfig`. Inputs and weights are ordered candidate, forget, reset. State: h [B, H, d]."""

    inputs_per_cell = 3
    config: GRUConfig

    def __init__(self, width: int, config: GRUConfig | None = None, **options: Any) -> None:
        super().__init__(width, make_config(GRUConfig, width, config, options))

    def scan(
        self, inputs: list[Tensor], weights: list[Tensor], state: State, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        after, clip = self.config.reset_after, self.config.grad_clip
        return gru_scan(*inputs, *weights, state=state, reset_after=after, grad_clip=clip, mask=mask, reset=reset)
