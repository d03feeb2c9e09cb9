"""MGU: the minimal gated unit, a GRU with one gate."""

from dataclasses import dataclass
from typing import Any, ClassVar

from matrixstate.layers.mixer import About, make_config
from matrixstate.mixers.cells.cell_mixer import MatrixCellConfig
from matrixstate.mixers.cells.named_cell import NamedCellMixer, only
from matrixstate.ops import CELLS


@dataclass(frozen=True)
class MGUConfig(MatrixCellConfig):
    """f = σ(h W_f + x_f); h_t = f tanh((f h_{t-1}) W + x) + (1 - f) h_{t-1}, y_t = O h_t.

    Source: Zhou et al. 2016, "Minimal Gated Unit for Recurrent Neural Networks".
    """

    about: ClassVar[About] = About(
        recurrence="f = σ(h W_f + x_f); h = f tanh((f h) W + x) + (1 - f) h; y = h",
        state="heads x head_size",
        op="cell_scan",
        source="Zhou et al. 2016, arXiv:1603.09420",
        forms=("step",),
    )

    def make(self, width: int) -> "MGU":
        return MGU(width, self)


class MGU(NamedCellMixer):
    """The mixer of `MGUConfig`. Inputs and weights are ordered candidate, gate. State: h [B, H, d]."""

    state_of = staticmethod(only)

    def __init__(self, width: int, config: MGUConfig | None = None, **options: Any) -> None:
        super().__init__(width, make_config(MGUConfig, width, config, options), CELLS["mgu"])
