"""minLSTM: an LSTM whose gates do not see the state and sum to 1, which makes it a linear recurrence."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, make_config
from matrixstate.mixers.scan.channel_mixer import ChannelConfig, ChannelMixer
from matrixstate.mixers.scan.min_gru import candidate


@dataclass(frozen=True)
class MinLSTMConfig(ChannelConfig):
    """h_t = f_t/(f_t + i_t) h_{t-1} + i_t/(f_t + i_t) g(W_c x_t + b_c), y_t = h_t, with f_t and i_t = σ(W x_t + b).

    Computed as it stands, from a state of zeros, as `MinGRUConfig`. Source: Feng et al. 2024, "Were RNNs All We
    Needed?", in its form whose scale does not depend on time.
    """

    about: ClassVar[About] = About(
        recurrence="h = (f h + i g(W x + b)) / (f + i); y = h; f, i = σ(W x + b) per channel; g(c) > 0 or g(c) = c",
        state="channels, and conv - 1 inputs",
        op="linear_scan",
        source="Feng et al. 2024, arXiv:2410.01201",
        forms=("parallel", "chunked", "step"),
    )

    positive: bool = True
    """Candidates g(c) = c + 1/2 for c >= 0 and σ(c) below, as in the paper's log form; false: g(c) = c."""

    def make(self, width: int) -> "MinLSTM":
        return MinLSTM(width, self)


class MinLSTM(ChannelMixer):
    """The mixer of `MinLSTMConfig`. State [B, C]. The maps of x start as `torch.nn.Linear` does, as in the paper."""

    def __init__(self, width: int, config: MinLSTMConfig | None = None, **options: Any) -> None:
        config = make_config(MinLSTMConfig, width, config, options)
        super().__init__(width, config, 3, Linear(width, 3 * (config.channels or width)))
        self.config = config

    def terms(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        f, i, c = parts
        share = logsigmoid(f) - logsigmoid(i)  # f / (f + i) = σ(log f - log i), also where both gates are nearly 0
        return logsigmoid(share), torch.sigmoid(-share) * candidate(c, self.config.positive)
