"""GILR: the gated impulse linear recurrence, one of the first layers to be computed by a parallel scan."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, make_config
from matrixstate.mixers.scan.channel_mixer import ChannelConfig, ChannelMixer


@dataclass(frozen=True)
class GILRConfig(ChannelConfig):
    """h_t = g_t h_{t-1} + (1 - g_t) tanh(V x_t + b_v), y_t = h_t, with g_t = σ(U x_t + b_u) per channel.

    Source: Martin & Cundy 2018, "Parallelizing Linear Recurrent Neural Nets Over Sequence Length".
    """

    about: ClassVar[About] = About(
        recurrence="h = g h + (1 - g) tanh(W x + b); y = h; g = σ(W x + b) per channel",
        state="channels, and conv - 1 inputs",
        op="linear_scan",
        source="Martin & Cundy 2018, arXiv:1709.04057",
        forms=("parallel", "chunked", "step"),
    )

    def make(self, width: int) -> "GILR":
        return GILR(width, self)


class GILR(ChannelMixer):
    """The mixer of `GILRConfig`. State [B, C]. The maps of x start as `torch.nn.Linear` does."""

    def __init__(self, width: int, config: GILRConfig | None = None, **options: Any) -> None:
        config = make_config(GILRConfig, width, config, options)
        super().__init__(width, config, 2, Linear(width, 2 * (config.channels or width)))
        self.config = config

    def terms(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        g, v = parts
        return logsigmoid(g), torch.sigmoid(-g) * torch.tanh(v)
