"""SRU: a recurrent unit whose gates see the token alone, with a highway around it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, make_config
from matrixstate.layers.projection import projection
from matrixstate.mixers.scan.channel_mixer import ChannelConfig, ChannelMixer


@dataclass(frozen=True)
class SRUConfig(ChannelConfig):
    """c_t = f_t c_{t-1} + (1 - f_t) W x_t, y_t = r_t tanh(c_t) + (1 - r_t) W_h x_t, with f_t, r_t = σ(W x_t + b).

    The first form of the paper, whose gates do not see c. Of its released form, with vectors v that weigh c_{t-1} in
    the gates, this is the case v = 0. The paper has no W_h, but the width's channels. Source: Lei et al. 2018, "Simple
    Recurrent Units for Highly Parallelizable Recurrence".
    """

    about: ClassVar[About] = About(
        recurrence="c = f c + (1 - f) W x; y = r tanh(c) + (1 - r) W x; f, r = σ(W x + b) per channel",
        state="channels, and conv - 1 inputs",
        op="linear_scan",
        source="Lei et al. 2018, arXiv:1709.02755",
        forms=("parallel", "chunked", "step"),
    )

    def make(self, width: int) -> "SRU":
        return SRU(width, self)


class SRU(ChannelMixer):
    """The mixer of `SRUConfig`. State [B, C]. The maps to gates and cell start as `torch.nn.Linear` does."""

    def __init__(self, width: int, config: SRUConfig | None = None, **options: Any) -> None:
        config = make_config(SRUConfig, width, config, options)
        C = config.channels or width
        super().__init__(width, config, 2, Linear(width, 2 * C))
        self.config = config
        self.read_gate = Linear(width, C)
        self.highway = projection(width, C)

    def terms(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        f, u = parts
        return logsigmoid(f), torch.sigmoid(-f) * u

    def read(self, h: Tensor, x: Tensor) -> Tensor:
        r = torch.sigmoid(self.read_gate(x))
        return r * torch.tanh(h) + (1 - r) * self.highway(x)
