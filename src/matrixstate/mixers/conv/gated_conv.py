"""A gated short convolution, the control for mixers that combine one with a recurrence."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mixer import About, Mixer, MixerConfig, check_inputs, is_one_step, make_config, positive
from matrixstate.layers.norm import EPS, RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import gated_conv_step


@dataclass(frozen=True)
class GatedConvConfig(MixerConfig):
    """y = W_o RMSNorm(silu(conv(W x)) * silu(G x)). The output depends on the last `conv` steps only."""

    about: ClassVar[About] = About(
        recurrence="y = RMSNorm(silu(conv(W x)) * silu(G x))",
        state="conv - 1 steps x channels",
        op="causal_conv",
        source="a control: the short convolution of Mamba and its successors without their recurrence",
        forms=("parallel", "step"),
    )

    channels: int | None = None
    """Channels of the convolution. Default: twice the width."""
    conv: int = 4
    """Steps of the convolution."""
    input_std: float = 0.02
    """Standard deviation of the weights of both input projections at initialisation."""

    def __post_init__(self) -> None:
        require(
            (self.channels is None or self.channels > 0, f"channels: expected at least 1, got {self.channels}"),
            (self.conv > 0, f"conv: expected at least 1 step, got {self.conv}"),
            *positive(self, "input_std"),
        )

    def make(self, width: int) -> "GatedConv":
        return GatedConv(width, self)


class GatedConv(Mixer):
    """The mixer of `GatedConvConfig`. State: the last conv - 1 projected inputs [B, conv-1, channels]."""

    def __init__(self, width: int, config: GatedConvConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(GatedConvConfig, width, config, options)
        self.config, self.width = config, width
        channels = config.channels or 2 * width
        self.input = projection(width, channels, config.input_std)
        self.gate = projection(width, channels, config.input_std)
        self.conv = ShortConv(channels, config.conv)
        self.norm = RMSNorm(channels)
        self.output = projection(channels, width)

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("GatedConv", x, self.width, mask, reset)
        if is_one_step(self, x, mask, reset):
            past = self.init_state(len(x)) if state is None else state
            y, last = gated_conv_step(self.input(x), self.gate(x), self.conv.weight, self.norm.weight, past, eps=EPS)
            return self.output(y), last
        y, last = self.conv(self.input(x), state, mask, reset)
        return self.output(self.norm(y * nn.functional.silu(self.gate(x)))), last

    def init_state(self, batch: int) -> Tensor:
        return self.conv.init_state(batch)

    def mixing_flops(self, length: int) -> int:
        return 2 * self.conv.weight.numel()
