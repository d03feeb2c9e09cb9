"""RWKV's channel mix: a gated MLP that sees one step back."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mixer import About, Mixer, MixerConfig, check_inputs, fraction, make_config
from matrixstate.layers.projection import projection
from matrixstate.layers.token_shift import TokenShift


@dataclass(frozen=True)
class RWKVChannelMixConfig(MixerConfig):
    """y_t = σ(W_r r_t) W relu(W_k k_t)², with k_t and r_t = μ x_t + (1 - μ) x_{t-1}, each with its own μ per channel.

    RWKV-4 has it in place of an MLP: in a block of its own after each block with `rwkv4`. An MLP of this library keeps
    no state, and this one keeps the last input, so it is a mixer. Source: Peng et al. 2023, "RWKV: Reinventing RNNs for
    the Transformer Era".
    """

    about: ClassVar[About] = About(
        recurrence="y = σ(W r) W relu(W k)²; k and r between x and the previous x",
        state="one input",
        op="causal_conv",
        source="Peng et al. 2023, arXiv:2305.13048",
        forms=("parallel", "step"),
    )

    hidden: int | None = None
    """Channels that are squared. Default: four times the width."""
    depth: float = 0.0
    """Where the layer stands, from 0 for the first to 1 for the last, for the mixes μ at initialisation."""

    def __post_init__(self) -> None:
        positive = (self.hidden is None or self.hidden > 0, f"hidden: expected at least 1, got {self.hidden}")
        require(positive, fraction(self, "depth"))

    def make(self, width: int) -> "RWKVChannelMix":
        return RWKVChannelMix(width, self)


class RWKVChannelMix(Mixer):
    """The mixer of `RWKVChannelMixConfig`. State: the last input [B, 1, width].

    At initialisation the mixes μ rise with the channel, and all maps are orthogonal (in the authors' code those of r
    and the output are 0).
    """

    no_weight_decay = ("mixes",)

    def __init__(self, width: int, config: RWKVChannelMixConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(RWKVChannelMixConfig, width, config, options)
        self.config, self.width, hidden = config, width, config.hidden or 4 * width
        self.shift = TokenShift(width)
        ramp = (torch.arange(width) / width) ** (1 - config.depth)
        self.mixes = nn.Parameter(torch.stack([ramp, ramp]))  # μ of k and r
        self.key, self.read = projection(width, hidden), projection(width, width)
        self.output = projection(hidden, width)
        for part in (self.key, self.read, self.output):
            nn.init.orthogonal_(part.weight)

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("RWKVChannelMix", x, self.width, mask, reset)
        before, last = self.shift(x, state, mask, reset)
        for_k, for_r = (before + (x - before) * mix for mix in self.mixes)
        return torch.sigmoid(self.read(for_r)) * self.output(torch.relu(self.key(for_k)).square()), last

    def init_state(self, batch: int) -> Tensor:
        return self.shift.init_state(batch)

    def mixing_flops(self, length: int) -> int:
        """None besides those of its maps."""
        return 0
