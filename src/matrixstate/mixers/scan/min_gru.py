"""minGRU: a GRU whose gate and candidate do not see the state, which makes it a linear recurrence."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, make_config
from matrixstate.mixers.scan.channel_mixer import ChannelConfig, ChannelMixer


@dataclass(frozen=True)
class MinGRUConfig(ChannelConfig):
    """h_t = (1 - z_t) h_{t-1} + z_t g(W_c x_t + b_c), y_t = h_t, with z_t = σ(W_z x_t + b_z) per channel.

    Computed as it stands, not by logarithms of h as in the paper, which lose digits in long sequences; so h starts at
    0, where the paper's log form starts at g(0) = 1/2. Source: Feng et al. 2024, "Were RNNs All We Needed?".
    """

    about: ClassVar[About] = About(
        recurrence="h = (1 - z) h + z g(W x + b); y = h; z = σ(W x + b) per channel; g(c) > 0 or g(c) = c",
        state="channels, and conv - 1 inputs",
        op="linear_scan",
        source="Feng et al. 2024, arXiv:2410.01201",
        forms=("parallel", "chunked", "step"),
    )

    positive: bool = True
    """Candidates g(c) = c + 1/2 for c >= 0 and σ(c) below, as in the paper's log form; false: g(c) = c."""

    def make(self, width: int) -> "MinGRU":
        return MinGRU(width, self)


class MinGRU(ChannelMixer):
    """The mixer of `MinGRUConfig`. State [B, C]. The maps of x start as `torch.nn.Linear` does, as in the paper."""

    def __init__(self, width: int, config: MinGRUConfig | None = None, **options: Any) -> None:
        config = make_config(MinGRUConfig, width, config, options)
        super().__init__(width, config, 2, Linear(width, 2 * (config.channels or width)))
        self.config = config

    def terms(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        z, c = parts
        return logsigmoid(-z), torch.sigmoid(z) * candidate(c, self.config.positive)


def candidate(c: Tensor, positive: bool) -> Tensor:
    """g(c) of the paper, continuous and positive, or c itself."""
    return torch.where(c >= 0, c + 0.5, torch.sigmoid(c)) if positive else c
