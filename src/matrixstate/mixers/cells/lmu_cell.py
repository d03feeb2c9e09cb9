"""The Legendre memory unit as first published: a hidden state beside the memory, each of which feeds the other."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from matrixstate.errors import require
from matrixstate.layers.discretise import zoh
from matrixstate.layers.hippo import lmu
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, MixerConfig, at_least, make_config, positive
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.mixers.cells.step_mixer import StepMixer
from matrixstate.ops import accumulation_dtype


@dataclass(frozen=True)
class LMUCellConfig(MixerConfig):
    """u_t = e_x·x_t + e_h·h_{t-1} + e_m·m_{t-1}, m_t = Ā m_{t-1} + b̄ u_t, h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t).

    Ā and b̄ are those of the mixer `lmu`, which leaves e_h, e_m and W_h out to be linear in its memory. Source: Voelker
    et al. 2019, "Legendre Memory Units: Continuous-Time Representation in Recurrent Neural Networks".
    """

    about: ClassVar[About] = About(
        recurrence="u = e [x, h, m]; m = Ā m + b̄ u; h = tanh(W [x, h, m]); Ā of Legendre polynomials of a window",
        state="channels + order",
        op=None,
        source="Voelker et al. 2019",
        forms=("step",),
    )

    channels: int | None = None
    """Channels of h. Default: the width."""
    order: int = 64
    """Polynomials of the memory."""
    window: float = 128.0
    """θ, steps that are remembered."""

    def __post_init__(self) -> None:
        C = self.channels
        require(
            (C is None or C > 0, f"channels: expected at least 1, got {C}"),
            *at_least(1, self, "order"),
            *positive(self, "window"),
        )

    def make(self, width: int) -> "LMUCell":
        return LMUCell(width, self)


class LMUCellState(NamedTuple):
    """What an `LMUCell` carries from one call to the next."""

    hidden: Tensor  # [B, channels]
    memory: Tensor  # [B, order]


class LMUCell(Float32Parameters, StepMixer):
    """The mixer of `LMUCellConfig`.

    At initialisation e_x and e_h are uniform with variance 1/inputs (LeCun), e_m is 0, and W_x, W_h and W_m are normal
    with variance 2/(inputs + channels) (Xavier). Ā and b̄ are not trained.
    """

    transition: Tensor
    write: Tensor

    float32 = ("transition", "write")

    def __init__(self, width: int, config: LMUCellConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(LMUCellConfig, width, config, options)
        self.config, self.width, self.channels = config, width, config.channels or width
        C, N = self.channels, config.order
        self.inputs = Linear(width, 1 + C, bias=False)  # to u and h
        self.hidden = Linear(C, 1 + C, bias=False)
        self.from_memory = nn.Parameter(torch.zeros(N))  # e_m
        self.readout = projection(N, C)  # W_m
        self.output = projection(C, width, 1 / math.sqrt(C))
        self.register_buffer("transition", torch.empty(N, N))
        self.register_buffer("write", torch.empty(N))
        A, b = zoh(*lmu(N), torch.tensor(1 / config.window, dtype=torch.float64, device="cpu"))
        self.transition.copy_(A)
        self.write.copy_(b)
        with torch.no_grad():
            for weight in (self.inputs.weight, self.hidden.weight):
                limit = math.sqrt(3 / weight.shape[1])
                nn.init.uniform_(weight[:1], -limit, limit)
                nn.init.xavier_normal_(weight[1:])
        nn.init.xavier_normal_(self.readout.weight)

    def step(self, z: Tensor, state: LMUCellState) -> LMUCellState:
        z = z + linear(state.hidden, self.hidden.weight.to(z.dtype))
        u = z[:, :1] + (state.memory * self.from_memory).sum(-1, keepdim=True)
        memory = linear(state.memory, self.transition) + u * self.write
        return LMUCellState(torch.tanh(z[:, 1:] + linear(memory, self.readout.weight.to(z.dtype))), memory)

    def init_state(self, batch: int) -> LMUCellState:
        weight = self.output.weight
        wide = accumulation_dtype(weight.dtype)
        return LMUCellState(*(weight.new_zeros(batch, n, dtype=wide) for n in (self.channels, self.config.order)))

    def mixing_flops(self, length: int) -> int:
        """The memory, and the maps between it and h and of h to itself."""
        weights = self.hidden.weight.numel() + self.readout.weight.numel()
        return 2 * (self.transition.numel() + 3 * self.config.order + weights)
