"""CfC: closed-form continuous-time networks, an LTC's solution in closed form."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from matrixstate.layers.mixer import About, make_config, one_of
from matrixstate.mixers.cells.cell_mixer import CellConfig
from matrixstate.mixers.cells.named_cell import NamedCellMixer, only
from matrixstate.ops import CELLS

VARIANTS = {"default": "cfc", "no_gate": "cfc_no_gate", "pure": "cfc_pure"}  # the cells that they are


@dataclass(frozen=True)
class CfCConfig(CellConfig):
    """z = 1.7159 tanh(0.666 (h W + x)), t = σ(z W_t), h_t = (1 - t) tanh(z W_1) + t tanh(z W_2), y_t = O h_t.

    Every map of z has a bias. z has as many channels as h. Time passes by 1 per step: the two maps of z that give t in
    the paper, σ(a(z) Δ + b(z)), are then one. Source: Hasani et al. 2022, "Closed-form Continuous-time Neural
    Networks".
    """

    about: ClassVar[About] = About(
        recurrence="z = 1.7159 tanh(0.666 (h W + x)); t = σ(z W_t); h = (1 - t) tanh(z W_1) + t tanh(z W_2); y = h",
        state="heads x head_size",
        op="cell_scan",
        source="Hasani et al. 2022, arXiv:2106.13898",
        forms=("step",),
    )

    variant: Literal["default", "no_gate", "pure"] = "default"
    """Without the factor 1 - t where "no_gate"; where "pure", h = E - E e^-(|τ| + |f|) f with f = z W_1."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), one_of(self, "variant", *VARIANTS)]

    def make(self, width: int) -> "CfC":
        return CfC(width, self)


class CfC(NamedCellMixer):
    """The mixer of `CfCConfig`. State: h [B, H, d].

    `recurrent` is W, W_1, W_2, W_t, [4, H, d, d], and `vectors` their biases but the first's, [3, H, d]; in "pure" W,
    W_1, and the bias, τ, E. At initialisation biases are 0 and all else uniform as by Xavier, as the authors have it.
    """

    state_of = staticmethod(only)
    config: CfCConfig

    no_weight_decay = ("bias", "recurrent", "vectors")

    def __init__(self, width: int, config: CfCConfig | None = None, **options: Any) -> None:
        config = make_config(CfCConfig, width, config, options)
        super().__init__(width, config, CELLS[VARIANTS[config.variant]])
        H, d, limit = config.heads, self.size, _xavier(width + self.size, self.size)  # the first map is of [x, h]
        nn.init.uniform_(self.inputs.projection.weight, -limit, limit)
        whole = torch.empty(self.matrices, H, d, d).uniform_(-_xavier(d, d), _xavier(d, d))
        self.recurrent = nn.Parameter(torch.cat([whole[:1].uniform_(-limit, limit), whole[1:]]))
        self.vectors = nn.Parameter(torch.zeros(3, H, d))
        if config.variant == "pure":
            nn.init.uniform_(self.vectors[1:], -_xavier(1, d), _xavier(1, d))

    def all_weights(self, recurrent: list[Tensor]) -> list[Tensor]:
        return [*recurrent, *self.vectors]


def _xavier(inputs: int, outputs: int) -> float:
    """The bound of the uniform distribution of Glorot & Bengio 2010, eq. 16."""
    return math.sqrt(6 / (inputs + outputs))
