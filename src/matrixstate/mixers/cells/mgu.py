"""MGU: the minimal gated unit, a GRU with one gate."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from matrixstate.layers.mixer import About, State, make_config
from matrixstate.mixers.cells.cell_mixer import CellConfig, CellMixer
from matrixstate.ops import cell_scan


@dataclass(frozen=True)
class MGUConfig(CellConfig):
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


class MGU(CellMixer):
    """The mixer of `MGUConfig`. Inputs and weights are ordered candidate, gate. State: h [B, H, d]."""

    inputs_per_cell = 2

    def __init__(self, width: int, config: MGUConfig | None = None, **options: Any) -> None:
        super().__init__(width, make_config(MGUConfig, width, config, options))

    def scan(
        self, inputs: list[Tensor], weights: list[Tensor], state: State, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        x: dict[str, Tensor] = dict(zip(("x", "xf"), inputs, strict=True))
        w: dict[str, Tensor] = dict(zip(("w", "wf"), weights, strict=True))
        first, clip = None if state is None else (state,), self.config.grad_clip
        y, (h,) = cell_scan("mgu", x, w, first, grad_clip=clip, mask=mask, reset=reset)
        return y, h
