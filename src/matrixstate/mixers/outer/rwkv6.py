"""RWKV-6: linear attention with a data-dependent decay, a bonus for the current step, and inputs from two steps."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from matrixstate.layers.heads import KeyValueConfig, ScanMixer
from matrixstate.layers.low_rank import LowRank
from matrixstate.layers.mixer import About, at_least, fraction, make_config, zero_padding
from matrixstate.layers.norm import EPS, HeadNorm
from matrixstate.layers.projection import projection
from matrixstate.layers.token_shift import TokenShift
from matrixstate.ops import outer_scan


@dataclass(frozen=True)
class RWKV6Config(KeyValueConfig):
    """S_t = diag(w_t) S_{t-1} + k_t v_tᵀ, y_t = (S_{t-1} + diag(u) k_t v_tᵀ)ᵀ r_t, with w_t = exp(-exp(decay(x_t))).

    decay, k, v, r and the gate g each read their own mix x_t + (x_{t-1} - x_t) ∘ m_t of the last two steps, with m_t
    of low rank in the token. The read-out is layer-normed per head and gated with silu(g). RWKV's channel mix is an
    MLP and no part of this. Source: Peng et al. 2024, "Eagle and Finch", and their code, version x060.
    """

    about: ClassVar[About] = About(
        recurrence="y = (S + diag(u) k vᵀ)ᵀ r, then S = diag(w) S + k vᵀ; w = exp(-exp(decay(x))) per key channel",
        state="heads x key_size x value_size, and one input",
        op="outer_scan",
        source="Peng et al. 2024, arXiv:2404.05892",
    )

    mix_rank: int = 32
    """Rank of the map from the token to each of the five mixes m_t."""
    decay_rank: int = 64
    """Rank of the map from the token to the decay."""
    depth: float = 0.0
    """Where the layer stands, from 0 for the first to 1 for the last, for the initialisation, which differs from layer
    to layer in the paper; a mixer does not know its layer."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), *at_least(1, self, "mix_rank", "decay_rank"), fraction(self, "depth")]

    def make(self, width: int) -> "RWKV6":
        return RWKV6(width, self)


class RWKV6(ScanMixer):
    """The mixer of `RWKV6Config`. State [B, H, K, V], and the last input [B, 1, width].

    At initialisation m_t and the decay are the same for all tokens: the mixes rise with the channel, the decays go from
    exp(-e^{-6}) to exp(-e^{-1}). The projections are orthogonal, times 1 for r and v and 0.1 for k and g; the authors'
    output starts at 0, this one as every mixer's here.
    """

    multiply_adds = 3

    no_weight_decay = ("mix_bias", "bonus")

    def __init__(self, width: int, config: RWKV6Config | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(RWKV6Config, width, config, options)
        H, K, V = config.shape
        self.config, self.width, self.shape = config, width, config.shape
        self.inputs = TokenShift(width)
        starts, decay, bonus = rwkv6_start(width, H * K, config.depth)
        self.mix_bias = nn.Parameter(starts)  # of the token that m_t is made of, then of decay, k, v, r and g
        self.mix_down = projection(width, 5 * config.mix_rank, std=0)
        self.mix_up = nn.Parameter(torch.empty(5, config.mix_rank, width).uniform_(-0.01, 0.01))
        self.decay = LowRank(width, config.decay_rank, H * K, torch.tanh, decay, std=0)
        nn.init.uniform_(self.decay.second.weight, -0.01, 0.01)
        self.bonus = nn.Parameter(bonus.view(H, K))
        self.read, self.key = projection(width, H * K), projection(width, H * K)
        self.value, self.gate = projection(width, H * V), projection(width, H * V)
        for part, gain in ((self.read, 1), (self.key, 0.1), (self.value, 1), (self.gate, 0.1)):
            nn.init.orthogonal_(part.weight, gain)
        self.norm = HeadNorm(H, V, eps=64 * EPS)
        self.output = projection(H * V, width)

    def mix(
        self, x: Tensor, inputs: Tensor, scan: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        step_back, (H, K, V) = inputs - x, self.shape
        coarse = torch.tanh(self.mix_down(x + step_back * self.mix_bias[0])).unflatten(-1, (5, -1))
        mixes = self.mix_bias[1:] + torch.einsum("btnr,nrc->btnc", coarse, self.mix_up)
        for_decay, for_k, for_v, for_r, for_g = (x[:, :, None] + step_back[:, :, None] * mixes).unbind(2)
        decay = zero_padding(-torch.exp(self.decay(for_decay)), mask).unflatten(-1, (H, K))
        r, k = self.read(for_r).unflatten(-1, (H, K)), zero_padding(self.key(for_k), mask).unflatten(-1, (H, K))
        v = self.value(for_v).unflatten(-1, (H, V))
        y, scan = outer_scan(r, k, v, log_decay=decay, bonus=self.bonus, read="pre", state=scan, reset=reset)
        return self.norm(y).flatten(2) * silu(self.gate(for_g)), scan


def rwkv6_start(width: int, channels: int, depth: float) -> tuple[Tensor, Tensor, Tensor]:
    """The mixes [6, width] (token, decay, k, v, r, g), decays and bonuses [channels] of the authors' start.

    Where it has l/(L-1) or l/L for layer l of L, this has `depth`.
    """
    ramp = (torch.arange(width) / width) ** (1 - depth)
    mixes = 1 - torch.stack([ramp, ramp, ramp, ramp + 0.3 * depth, ramp.sqrt(), ramp.sqrt()])
    channel = torch.arange(channels)
    place = channel / max(channels - 1, 1)
    decay = -6 + 5 * place ** (0.7 + 1.3 * depth)
    bonus = depth * (1 - place) + 0.1 * ((channel + 1) % 3 - 1)
    return mixes, decay, bonus
