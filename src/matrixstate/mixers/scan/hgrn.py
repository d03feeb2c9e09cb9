"""HGRN: a gated linear recurrence per channel whose forget gate has a lower bound."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu

from matrixstate.layers.mixer import About, make_config, positive
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.mixers.scan.channel_mixer import ChannelConfig, ChannelMixer


@dataclass(frozen=True)
class HGRNConfig(ChannelConfig):
    """h_t = f_t h_{t-1} + (1 - f_t) silu(W_c x_t), y_t = RMSNorm(h_t) silu(W_g x_t), with f_t = g + (1 - g) σ(W_f x_t).

    The real form of the recurrence; in the paper's complex one h also turns by a constant angle per channel. The
    read-out is normed and then gated, as in flash-linear-attention; the authors' code gates first and has a layer
    norm. Source: Qin et al. 2023, "Hierarchically Gated Recurrent Neural Network for Sequence Modeling".
    """

    about: ClassVar[About] = About(
        recurrence="h = f h + (1 - f) silu(W x); y = RMSNorm(h) silu(W x); f = g + (1 - g) σ(W x) per channel",
        state="channels, and conv - 1 inputs",
        op="linear_scan",
        source="Qin et al. 2023, arXiv:2311.04823",
        forms=("parallel", "chunked", "step"),
    )

    input_std: float = 0.02
    """Standard deviation of the weights of all maps of x at initialisation."""
    lower_bound: float = 0.0
    """g in [0, 1), below which no f falls. In the paper it rises from layer to layer from 0, at the start as l/L in
    layer l of L, and is learned for all layers together; a mixer does not know its layer, so g is a constant here."""

    def checks(self) -> list[tuple[bool, str]]:
        g = self.lower_bound
        bounded = (0 <= g < 1, f"lower_bound: expected a number from 0 to below 1, got {g}")
        return [*super().checks(), *positive(self, "input_std"), bounded]

    def make(self, width: int) -> "HGRN":
        return HGRN(width, self)


class HGRN(ChannelMixer):
    """The mixer of `HGRNConfig`. State [B, C]."""

    def __init__(self, width: int, config: HGRNConfig | None = None, **options: Any) -> None:
        config = make_config(HGRNConfig, width, config, options)
        C = config.channels or width
        super().__init__(width, config, 2, projection(width, 2 * C, config.input_std))
        self.config = config
        self.gate = projection(width, C, config.input_std)
        self.norm = RMSNorm(C)

    def terms(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        (z, c), g = parts, self.config.lower_bound
        decay = logsigmoid(z)
        if g > 0:
            decay = torch.logaddexp(torch.full_like(z, math.log(g)), decay + math.log1p(-g))
        # 1 - f = (1 - g) σ(-z), without its cancellation near f = 1
        return decay, (1 - g) * torch.sigmoid(-z) * silu(c)

    def read(self, h: Tensor, x: Tensor) -> Tensor:
        return self.norm(h) * silu(self.gate(x))
