"""QRNN: a convolution of the tokens gives gates and candidates of a linear recurrence per channel."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from matrixstate.errors import require
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, Mixer, MixerConfig, at_least, check_inputs, make_config, zero_padding
from matrixstate.layers.projection import projection
from matrixstate.layers.window import Window
from matrixstate.mixers.scan.channel_mixer import ChannelState
from matrixstate.ops import accumulation_dtype, linear_scan


@dataclass(frozen=True)
class QRNNConfig(MixerConfig):
    """c_t = f_t c_{t-1} + (1 - f_t) tanh(z_t), y_t = σ(o_t) c_t, with f_t = σ(.), all of the last `window` steps of x.

    z, f and o are linear maps of those steps, that is, causal convolutions that mix channels. f multiplies the old
    state, as in the paper; some code has it multiply the candidate. Source: Bradbury et al. 2016, "Quasi-Recurrent
    Neural Networks" (fo-pooling).
    """

    about: ClassVar[About] = About(
        recurrence="c = f c + (1 - f) tanh(z); y = σ(o) c; f = σ(.), and z, f, o = W [x of the last steps] + b",
        state="channels, and window - 1 inputs",
        op="linear_scan",
        source="Bradbury et al. 2016, arXiv:1611.01576",
        forms=("parallel", "chunked", "step"),
    )

    channels: int | None = None
    """C, channels of the state. Default: the width."""
    window: int = 2
    """Steps of x that gates and candidates see, at least 1."""

    def __post_init__(self) -> None:
        C = self.channels
        require((C is None or C > 0, f"channels: expected at least 1, got {C}"), *at_least(1, self, "window"))

    def make(self, width: int) -> "QRNN":
        return QRNN(width, self)


class QRNN(Mixer):
    """The mixer of `QRNNConfig`. State [B, C]. The maps to z, f and o start as `torch.nn.Linear` does."""

    def __init__(self, width: int, config: QRNNConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(QRNNConfig, width, config, options)
        self.config, self.width, self.channels = config, width, config.channels or width
        self.window = Window(width, config.window)
        self.inputs = Linear(config.window * width, 3 * self.channels)
        self.output = projection(self.channels, width)

    def forward(
        self, x: Tensor, state: ChannelState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, ChannelState]:
        x, reset = check_inputs("QRNN", x, self.width, mask, reset)
        state = ChannelState(None, None) if state is None else state
        u, last = self.window(x, state.conv, mask, reset)
        u = self.inputs(u)
        z, f, o = u.to(accumulation_dtype(u.dtype)).chunk(3, dim=-1)
        write, decay = torch.sigmoid(-f) * torch.tanh(z), logsigmoid(f)
        write, decay = zero_padding(write, mask).to(u.dtype), zero_padding(decay, mask)
        c, scan = linear_scan(write, log_decay=decay, state=state.scan, reset=reset)
        return self.output((torch.sigmoid(o) * c).to(u.dtype)), ChannelState(last, scan)

    def init_state(self, batch: int) -> ChannelState:
        weight = self.output.weight
        zeros = weight.new_zeros(batch, self.channels, dtype=accumulation_dtype(weight.dtype))
        return ChannelState(self.window.init_state(batch), zeros)

    def mixing_flops(self, length: int) -> int:
        """The recurrence."""
        return 2 * self.channels
