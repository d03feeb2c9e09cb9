"""MEGA's damped exponential moving average: a few decaying sums per channel."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from matrixstate.errors import require
from matrixstate.layers.mixer import About, Mixer, MixerConfig, at_least, check_inputs, make_config
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, lti_scan


@dataclass(frozen=True)
class MegaEMAConfig(MixerConfig):
    """h_t = q h_{t-1} + p β x_t, y_t = W silu(Σ_n γ_n h_tn / √N + ω x_t), with p = σ(α), q = 1 - p σ(δ), N per channel.

    The moving average of MEGA alone, without its gated attention, and with an output map. Source: Ma et al. 2022,
    "Mega: Moving Average Equipped Gated Attention", eq. 2-4.
    """

    about: ClassVar[About] = About(
        recurrence="h = q h + p β x; y = silu(γ·h / √N + ω x); p = σ(α), q = 1 - p σ(δ), constant, N per channel",
        state="width x states",
        op="lti_scan",
        source="Ma et al. 2022, arXiv:2209.10655",
        forms=("chunked", "step"),
    )

    states: int = 16
    """N, sums of a channel."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "states"))

    def make(self, width: int) -> "MegaEMA":
        return MegaEMA(width, self)


class MegaEMA(Float32Parameters, Mixer):
    """The mixer of `MegaEMAConfig`. State [B, width, N].

    At initialisation α and δ are normal with standard deviation 0.2, β is 1 and -1 in turns plus 0.02 times a normal
    number, γ and ω are normal.
    """

    float32 = no_weight_decay = ("alpha", "delta")

    def __init__(self, width: int, config: MegaEMAConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(MegaEMAConfig, width, config, options)
        self.config, self.width, shape = config, width, (width, config.states)
        self.alpha = nn.Parameter(0.2 * torch.randn(shape))
        self.delta = nn.Parameter(0.2 * torch.randn(shape))
        self.beta = nn.Parameter(1.0 - 2 * (torch.arange(config.states) % 2) + 0.02 * torch.randn(shape))
        self.gamma = nn.Parameter(torch.randn(shape))
        self.omega = nn.Parameter(torch.randn(width))
        self.output = projection(width, width)

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("MegaEMA", x, self.width, mask, reset)
        p = torch.sigmoid(self.alpha)
        log_decay = torch.log1p(-p * torch.sigmoid(self.delta))
        weight = (self.gamma * self.beta).to(p.dtype) * p / self.config.states**0.5
        y, state = lti_scan(x, log_decay, weight, state=state, mask=mask, reset=reset)
        return self.output(silu(y + self.omega * x)), state

    def init_state(self, batch: int) -> Tensor:
        return self.alpha.new_zeros(batch, *self.alpha.shape, dtype=accumulation_dtype(self.alpha.dtype))

    def mixing_flops(self, length: int) -> int:
        """The sums and their read-out."""
        return 4 * self.alpha.numel()
