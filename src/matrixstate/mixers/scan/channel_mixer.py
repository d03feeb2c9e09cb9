"""The base of the mixers with a linear recurrence per channel whose decays and writes come from the token alone."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mixer import Mixer, MixerConfig, at_least, check_inputs, zero_padding
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import accumulation_dtype, linear_scan


@dataclass(frozen=True)
class ChannelConfig(MixerConfig):
    """The options that these mixers have in common."""

    channels: int | None = None
    """C, channels of the state. Default: the width."""
    conv: int = 0
    """Steps of a short convolution of x before the maps to the decay and the write. 0: none."""

    def __post_init__(self) -> None:
        require(*self.checks())

    def checks(self) -> list[tuple[bool, str]]:
        """What `require` is told of the options; subclasses add theirs, so that all mistakes come at once."""
        C = self.channels
        return [(C is None or C > 0, f"channels: expected at least 1, got {C}"), *at_least(0, self, "conv")]


class ChannelState(NamedTuple):
    """What a `ChannelMixer` carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, width]; None without a convolution
    scan: Tensor | None  # [B, C], or [B, C, 2] where it is complex; None before the first step


class ChannelMixer(Mixer):
    """h_t = a_t h_{t-1} + b_t of every channel, with a and b from one projection of x. Subclasses implement `terms`.

    Args:
        width: channels of the input.
        config: its options.
        parts: projections of x, [C] each, that `terms` takes.
        inputs: all of them in one map, width -> parts * C.
    """

    def __init__(self, width: int, config: ChannelConfig, parts: int, inputs: nn.Linear) -> None:
        super().__init__()
        self.width, self.channels, self.parts = width, config.channels or width, parts
        self.conv = ShortConv(width, config.conv, silu=False) if config.conv else None
        self.inputs = inputs
        self.output = projection(self.channels, width)

    @abstractmethod
    def terms(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """log a_t and b_t [B, T, C] from the projections of x, all at least float32."""

    def read(self, h: Tensor, x: Tensor) -> Tensor:
        """What the output projection takes [B, T, C], from h_t of every step; h_t itself by default."""
        return h

    def forward(
        self, x: Tensor, state: ChannelState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, ChannelState]:
        x, reset = check_inputs(type(self).__name__, x, self.width, mask, reset)
        state = ChannelState(None, None) if state is None else state
        u, conv = (x, None) if self.conv is None else self.conv(x, state.conv, mask, reset)
        z = self.inputs(u)
        log_decay, write = self.terms(*z.to(accumulation_dtype(z.dtype)).chunk(self.parts, dim=-1))
        write = zero_padding(write, mask)
        write = write if write.is_complex() else write.to(z.dtype)
        h, scan = self.recur(zero_padding(log_decay, mask), write, state.scan, reset)
        return self.output(self.read(h.to(z.dtype), x)), ChannelState(conv, scan)

    def recur(
        self, log_decay: Tensor, write: Tensor, state: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """h_t of every step and the last one, from what `terms` returned."""
        return linear_scan(write, log_decay=log_decay, state=state, reset=reset)

    def init_state(self, batch: int) -> ChannelState:
        weight = self.output.weight
        zeros = weight.new_zeros(batch, self.channels, dtype=accumulation_dtype(weight.dtype))
        return ChannelState(None if self.conv is None else self.conv.init_state(batch), zeros)

    def mixing_flops(self, length: int) -> int:
        """The recurrence and the convolution."""
        return 2 * (self.channels + (0 if self.conv is None else self.conv.weight.numel()))
