"""HGRN: a gated linear recurrence per channel whose forget gate has a lower bound."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu

from matrixstate.layers.mixer import About, make_config, positive
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.mixers.scan.channel_mixer import ChannelConfig, ChannelMixer, ChannelState
from matrixstate.ops import linear_scan


@dataclass(frozen=True)
class HGRNConfig(ChannelConfig):
    """h_t = f_t h_{t-1} + (1 - f_t) silu(W_c x_t), y_t = RMSNorm(h_t) silu(W_g x_t), with f_t = g + (1 - g) σ(W_f x_t).

    The real form of the recurrence; with `phase`, the paper's complex one: f_t is multiplied by e^{iθ} with a learned
    angle θ per channel, c_t is complex, made of 2 C real numbers, and y_t is read from Re h and Im h side by side. The
    read-out is normed and then gated, as in flash-linear-attention; the authors' code gates first and has a layer
    norm. Source: Qin et al. 2023, "Hierarchically Gated Recurrent Neural Network for Sequence Modeling".
    """

    about: ClassVar[About] = About(
        recurrence="h = f h + (1 - f) silu(W x); y = RMSNorm(h) silu(W x); f = g + (1 - g) σ(W x) per channel",
        state="channels, twice as many with phase, and conv - 1 inputs",
        op="linear_scan",
        source="Qin et al. 2023, arXiv:2311.04823",
        forms=("parallel", "chunked", "step"),
    )

    input_std: float = 0.02
    """Standard deviation of the weights of all maps of x at initialisation."""
    phase: bool = False
    """Whether h is complex and turns by a constant angle per channel and step."""
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
    """The mixer of `HGRNConfig`. State [B, C]; with `phase` [B, C, 2], real and imaginary parts.

    θ starts at 10000^{-2d/C} for channel d.
    """

    no_weight_decay = ("angle",)

    def __init__(self, width: int, config: HGRNConfig | None = None, **options: Any) -> None:
        config = make_config(HGRNConfig, width, config, options)
        C, parts = config.channels or width, 3 if config.phase else 2
        super().__init__(width, config, parts, projection(width, parts * C, config.input_std))
        self.config = config
        self.gate = projection(width, (parts - 1) * C, config.input_std)
        self.norm = RMSNorm((parts - 1) * C)
        self.angle = None
        if config.phase:
            self.angle = nn.Parameter(10_000 ** (-2 * torch.arange(C) / C))
            self.output = projection(2 * C, width)

    def terms(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        (z, *c), g = parts, self.config.lower_bound
        decay = logsigmoid(z)
        if g > 0:
            decay = torch.logaddexp(torch.full_like(z, math.log(g)), decay + math.log1p(-g))
        # 1 - f = (1 - g) σ(-z), without its cancellation near f = 1
        write = (1 - g) * torch.sigmoid(-z)
        return decay, write * silu(c[0]) if self.angle is None else write * torch.complex(*map(silu, c))

    def recur(
        self, log_decay: Tensor, write: Tensor, state: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.angle is None:
            return super().recur(log_decay, write, state, reset)
        angle = self.angle.to(log_decay.dtype)
        turn = torch.polar(torch.ones_like(angle), angle)
        before = None if state is None else torch.view_as_complex(state)
        # at a padded step, whose decay is 1 exactly, h does not turn either
        decay = torch.where(log_decay == 0, 1, log_decay.exp() * turn)
        h, last = linear_scan(write, decay=decay, state=before, reset=reset)
        return torch.cat([h.real, h.imag], dim=-1), torch.view_as_real(last)

    def init_state(self, batch: int) -> ChannelState:
        conv, scan = super().init_state(batch)
        return ChannelState(conv, scan if self.angle is None or scan is None else torch.stack([scan, scan], dim=-1))

    def read(self, h: Tensor, x: Tensor) -> Tensor:
        return self.norm(h) * silu(self.gate(x))
