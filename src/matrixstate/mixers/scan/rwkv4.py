"""RWKV-4's time mixing: a mean of values per channel, weighted by exponentials of keys that decay."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mixer import About, Mixer, MixerConfig, check_inputs, fraction, make_config
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.layers.token_shift import TokenShift
from matrixstate.ops import NormalisedState, accumulation_dtype, normalised_scan


@dataclass(frozen=True)
class RWKV4Config(MixerConfig):
    """y_t = σ(r_t) (Σ_{i<t} e^{k_i - (t-1-i) w} v_i + e^{u + k_t} v_t) / (the same without v), per channel.

    k, v and r are linear maps of μ x_t + (1 - μ) x_{t-1}, each with its own μ per channel; w = e^{decay} > 0. RWKV's
    channel mix is `rwkv_channel_mix`. Source: Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer
    Era".
    """

    about: ClassVar[About] = About(
        recurrence="y = σ(r) (N + e^(u + k) v) / (D + e^(u + k)), then N = e^(-w) N + e^k v; D = e^(-w) D + e^k",
        state="3 x channels, and one input",
        op="normalised_scan",
        source="Peng et al. 2023, arXiv:2305.13048",
        forms=("parallel", "chunked", "step"),
    )

    channels: int | None = None
    """Channels of the state. Default: the width."""
    depth: float = 0.0
    """Where the layer stands, from 0 for the first to 1 for the last, for the initialisation, which differs from layer
    to layer in the paper; a mixer does not know its layer."""

    def __post_init__(self) -> None:
        C = self.channels
        require((C is None or C > 0, f"channels: expected at least 1, got {C}"), fraction(self, "depth"))

    def make(self, width: int) -> "RWKV4":
        return RWKV4(width, self)


class RWKV4State(NamedTuple):
    """What an RWKV-4 mixer carries from one call to the next."""

    shift: Tensor | None  # [B, 1, width], the last input; None before the first step
    scan: NormalisedState | None  # of [B, channels]; None before the first step


class RWKV4(Float32Parameters, Mixer):
    """The mixer of `RWKV4Config`.

    At initialisation w goes from e^{-5} to e^3 over the channels, u is log 0.3 plus or minus 1/2 in turns, the mixes μ
    rise with the channel, and all maps are orthogonal (in the authors' code those of k, r and the output are 0).
    """

    float32 = ("decay", "bonus")
    no_weight_decay = ("decay", "bonus", "mixes")

    def __init__(self, width: int, config: RWKV4Config | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(RWKV4Config, width, config, options)
        self.config, self.width, self.channels = config, width, config.channels or width
        C, depth = self.channels, config.depth
        self.shift = TokenShift(width)
        ramp = (torch.arange(width) / width) ** (1 - depth)
        self.mixes = nn.Parameter(torch.stack([ramp, ramp + 0.3 * depth, ramp.sqrt()]))  # μ of k, v and r
        self.key, self.value, self.read = (projection(width, C) for _ in range(3))
        for part in (self.key, self.value, self.read):
            nn.init.orthogonal_(part.weight)
        channel = torch.arange(C)
        self.decay = nn.Parameter(-5 + 8 * (channel / max(C - 1, 1)) ** (0.7 + 1.3 * depth))  # log w
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1))
        self.output = projection(C, width)

    def forward(
        self, x: Tensor, state: RWKV4State | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, RWKV4State]:
        x, reset = check_inputs("RWKV4", x, self.width, mask, reset)
        state = RWKV4State(None, None) if state is None else state
        before, shift = self.shift(x, state.shift, mask, reset)
        for_k, for_v, for_r = (before + (x - before) * mix for mix in self.mixes)
        k, v, r = self.key(for_k), self.value(for_v), torch.sigmoid(self.read(for_r))
        decay = -self.decay.exp()
        if mask is not None:  # a padded step adds nothing and decays nothing
            k = k.masked_fill(~mask[..., None], -torch.inf)
            decay = decay.expand(*k.shape).masked_fill(~mask[..., None], 0)
        y, scan = normalised_scan(k, v, log_decay=decay, bonus=self.bonus, state=state.scan, reset=reset)
        return self.output(r * y), RWKV4State(shift, scan)

    def init_state(self, batch: int) -> RWKV4State:
        weight = self.output.weight
        zeros = weight.new_zeros(batch, self.channels, dtype=accumulation_dtype(weight.dtype))
        empty = NormalisedState(torch.full_like(zeros, -torch.inf), zeros, torch.zeros_like(zeros))
        return RWKV4State(self.shift.init_state(batch), empty)

    def mixing_flops(self, length: int) -> int:
        """Both sums, written and read."""
        return 8 * self.channels
