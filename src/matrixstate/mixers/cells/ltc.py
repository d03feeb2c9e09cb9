"""LTC: liquid time-constant networks, neurons whose synapses change how fast they forget."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from matrixstate.layers.mixer import About, State, at_least, make_config
from matrixstate.mixers.cells.cell_mixer import CellConfig
from matrixstate.mixers.cells.named_cell import NamedCellMixer, only
from matrixstate.ops import CELLS
from matrixstate.ops.cells.equations import synapses


@dataclass(frozen=True)
class LTCConfig(CellConfig):
    """C v' = g (rest - v) + Σ_j w_j σ(s_j (v_j - m_j)) (E_j - v) over all units and inputs j, y_t = O v_t.

    Each step is a time of 1, in `unfolds` semi-implicit steps of Euler's method: v <- (a C v + g rest + Σ w σ E) /
    (a C + g + Σ w σ), a = unfolds. The inputs u_j of a head are d projections of the mixer's input.
    Source: Hasani et al. 2021, "Liquid Time-constant Networks"; synapses as in their package ncps.
    """

    about: ClassVar[About] = About(
        recurrence="6 times v = (6 C v + g rest + Σ w σ(s (v - m)) E) / (6 C + g + Σ w σ(s (v - m))); y = v",
        state="heads x head_size",
        op="cell_scan",
        source="Hasani et al. 2021, arXiv:2006.04439",
        forms=("step",),
    )

    unfolds: int = 6
    """Steps of the integration per step of the sequence."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), *at_least(1, self, "unfolds")]

    def make(self, width: int) -> "LTC":
        return LTC(width, self)


class LTC(NamedCellMixer):
    """The mixer of `LTCConfig`. State: v [B, H, d].

    The synapses between units are `recurrent` and those of the inputs `sensory`, both [4, H, d, d] of w, m, s, E from
    unit i to j. w, g and C are softplus of the parameters. At initialisation w and g are uniform in [0.001, 1], C in
    [0.4, 0.6], rest in ±0.2, m in [0.3, 0.8], s in [3, 8], and E is 1 or -1. Cost: B·T·H·d² sigmoids for the
    inputs and for every unfold, of which all are held where there are gradients.
    """

    state_of = staticmethod(only)
    config: LTCConfig

    no_weight_decay = ("bias", "recurrent", "sensory", "neurons")

    def __init__(self, width: int, config: LTCConfig | None = None, **options: Any) -> None:
        config = make_config(LTCConfig, width, config, options)
        cell, unfolds = CELLS["ltc"], config.unfolds
        if unfolds != 6:
            cell = replace(cell, name=f"ltc of {unfolds} unfolds", step=partial(cell.step, unfolds=unfolds))
        super().__init__(width, config, cell, more_inputs=-1)  # x and xg are made of one projection
        H, d = config.heads, self.size
        self.recurrent, self.sensory = nn.Parameter(_drawn_synapses(H, d)), nn.Parameter(_drawn_synapses(H, d))
        neurons = [_positive(_uniform(0.001, 1, H, d)), _uniform(-0.2, 0.2, H, d), _positive(_uniform(0.4, 0.6, H, d))]
        self.neurons = nn.Parameter(torch.stack(neurons))  # g, rest, C

    def all_weights(self, recurrent: list[Tensor]) -> list[Tensor]:
        return [*recurrent, *self.neurons]

    def scan(
        self, inputs: list[Tensor], weights: list[Tensor], state: State, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        w, *others = self.sensory
        return super().scan([*synapses(inputs[0], softplus(w), *others)], weights, state, mask, reset)

    def mixing_flops(self, length: int) -> int:
        """Seven operations for each synapse, a sigmoid counted as one, and the convolution."""
        return 7 * (self.config.unfolds + 1) * self.config.heads * self.size**2 + self.inputs.conv_flops


def _uniform(low: float, high: float, *shape: int) -> Tensor:
    return torch.empty(shape).uniform_(low, high)


def _positive(value: Tensor) -> Tensor:
    """The parameter of which `value` is the softplus."""
    return value.expm1().log()


def _drawn_synapses(H: int, d: int) -> Tensor:
    shape = (H, d, d)
    w, m, s = _positive(_uniform(0.001, 1, *shape)), _uniform(0.3, 0.8, *shape), _uniform(3, 8, *shape)
    return torch.stack([w, m, s, 2.0 * torch.randint(2, shape) - 1])
