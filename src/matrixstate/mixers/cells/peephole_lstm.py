"""LSTM with peepholes, and what is left of it without one of its parts."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mixer import About, State, make_config, one_of
from matrixstate.mixers.cells.cell_mixer import CellConfig, CellMixer
from matrixstate.ops import LSTM_VARIANTS, LSTMState, cell_scan, peephole_lstm


@dataclass(frozen=True)
class PeepholeLSTMConfig(CellConfig):
    """i, f = σ(h W· + p· c + x·), c_t = f c + i tanh(h W + x), o = σ(h W_o + p_o c_t + x_o), h_t = o tanh(c_t).

    Source: Greff et al. 2017, "LSTM: A Search Space Odyssey"; peepholes: Gers & Schmidhuber 2000. The ninth variant,
    with gates that see all gates of the step before (FGR), is not here.
    """

    about: ClassVar[About] = About(
        recurrence="i, f = σ(h W + p c + x); c = f c + i tanh(h W + x); o = σ(h W + p c + x); h = o tanh(c); y = h",
        state="2 x heads x head_size",
        op=None,
        source="Greff et al. 2017, arXiv:1503.04069",
        forms=("step",),
    )

    variant: Literal["vanilla", "NIG", "NFG", "NOG", "NIAF", "NOAF", "CIFG", "NP"] = "vanilla"
    """What is left out: input, forget or output gate (NIG, NFG, NOG), the tanh at the input or the output (NIAF, NOAF),
    the forget gate for 1 - i (CIFG), the peepholes (NP, the usual LSTM)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(one_of(self, "variant", *LSTM_VARIANTS))

    def make(self, width: int) -> "PeepholeLSTM":
        return PeepholeLSTM(width, self)


class PeepholeLSTM(CellMixer):
    """The mixer of `PeepholeLSTMConfig`. Inputs and weights are ordered candidate, input, forget, output.

    State: `LSTMState` of h and c, [B, H, d] each. Peepholes start at 0, the bias of the forget gate at 1.
    """

    inputs_per_cell = 4

    no_weight_decay = ("bias", "recurrent", "peepholes")

    def __init__(self, width: int, config: PeepholeLSTMConfig | None = None, **options: Any) -> None:
        config = make_config(PeepholeLSTMConfig, width, config, options)
        super().__init__(width, config)
        self.variant = config.variant
        self.peepholes = nn.Parameter(torch.zeros(3, config.heads, self.size))  # of i, f and o
        nn.init.ones_(self.bias.data[2])

    def scan(
        self, inputs: list[Tensor], weights: list[Tensor], state: State, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        state = self._zeros(len(inputs[0])) if state is None else state
        (w, wi, wf, wo), peepholes = weights, self.peepholes.to(state[0].dtype)
        step, clip = peephole_lstm(w, wi, wf, wo, peepholes, self.variant), self.config.grad_clip
        y, last = cell_scan(step, inputs, state, grad_clip=clip, mask=mask, reset=reset)
        return y, LSTMState(*last)

    def _zeros(self, batch: int) -> LSTMState:
        return LSTMState(super()._zeros(batch), super()._zeros(batch))
