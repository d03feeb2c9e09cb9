"""RWKV-7: a decay per key channel, and a delta rule whose removed and written keys differ."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matrixstate.layers.heads import KeyValueConfig, ScanMixer, l2_normalise
from matrixstate.layers.low_rank import LowRank
from matrixstate.layers.mixer import About, at_least, fraction, make_config, zero_padding
from matrixstate.layers.norm import EPS, HeadNorm
from matrixstate.layers.projection import projection
from matrixstate.layers.token_shift import TokenShift
from matrixstate.ops import delta_scan


@dataclass(frozen=True)
class RWKV7Config(KeyValueConfig):
    """S_t = (diag(w_t) - (a_t ∘ κ_t) κ_tᵀ) S_{t-1} + k_t v_tᵀ, y_t = S_tᵀ r_t, with |κ_t| = 1.

    κ_t is the key times a learned weight, normalised; a_t in (0, 1) per channel says how much of its value is removed,
    and k_t is the key times 1 + (a_t - 1) ∘ k_a. log w_t = -e^{-1/2} σ(decay(x_t)) is bounded, so the state is too.
    Every input reads its own constant mix of the last two steps. The read-out is layer-normed per head, the current
    step added as (r_tᵀ (r_k ∘ k_t)) v_t, and gated. Source: Peng et al. 2025, 'RWKV-7 "Goose"', and their code, version
    x070. The values of the first layer that later layers there mix into theirs cross mixers and are left out.
    """

    about: ClassVar[About] = About(
        recurrence="S = (diag(w) - (a κ) κᵀ) S + k vᵀ; y = Sᵀ r; |κ| = 1, log w = -e^(-1/2) σ(decay(x)) per channel",
        state="heads x key_size x value_size, and one input",
        op="delta_scan",
        source="Peng et al. 2025, arXiv:2503.14456",
    )

    decay_rank: int = 64
    """Rank of the maps from the token to the decay and to a_t."""
    gate_rank: int = 128
    """Rank of the map from the token to the gate."""
    depth: float = 0.0
    """Where the layer stands, from 0 for the first to 1 for the last, for the initialisation, which differs from layer
    to layer in the paper; a mixer does not know its layer."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), *at_least(1, self, "decay_rank", "gate_rank"), fraction(self, "depth")]

    def make(self, width: int) -> "RWKV7":
        return RWKV7(width, self)


class RWKV7(ScanMixer):
    """The mixer of `RWKV7Config`. State [B, H, K, V], and the last input [B, 1, width].

    At initialisation decay, a_t, mixes and gate are the same for all tokens. The projections of r and v are uniform in
    ±0.5/√width, that of k in ±0.05/√width; the authors' output starts at 0, this one as every mixer's here.
    """

    multiply_adds = 5

    no_weight_decay = ("mixes", "removal_key", "removal_share", "bonus")

    def __init__(self, width: int, config: RWKV7Config | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(RWKV7Config, width, config, options)
        H, K, V = config.shape
        self.config, self.width, self.shape = config, width, config.shape
        self.inputs = TokenShift(width)
        mixes, decay, removal, removal_key = rwkv7_start(width, H, K, config.depth)
        self.mixes = nn.Parameter(mixes)
        self.decay = LowRank(width, config.decay_rank, H * K, torch.tanh, decay, std=0)
        self.removal = LowRank(width, config.decay_rank, H * K, None, removal, std=0)
        self.gate = LowRank(width, config.gate_rank, H * V, torch.sigmoid, std=0)
        for last in (self.decay.second, self.removal.second, self.gate.second):
            nn.init.orthogonal_(last.weight, 0.1 * max(1, math.sqrt(last.in_features / last.out_features)))
        self.removal_key = nn.Parameter(removal_key.view(H, K))
        self.removal_share = nn.Parameter(torch.full((H, K), 1.02))
        self.bonus = nn.Parameter(torch.full((H, K), -0.04))
        self.read, self.key, self.value = (projection(width, n) for n in (H * K, H * K, H * V))
        for part, size in ((self.read, 0.5), (self.key, 0.05), (self.value, 0.5)):
            nn.init.uniform_(part.weight, -size / math.sqrt(width), size / math.sqrt(width))
        self.norm = HeadNorm(H, V, eps=64 * EPS)
        self.output = projection(H * V, width)

    def mix(
        self, x: Tensor, inputs: Tensor, scan: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        H, K, V = self.shape
        mixed = x[:, :, None] + (inputs - x)[:, :, None] * self.mixes
        for_r, for_decay, for_k, for_v, for_a, for_g = mixed.unbind(2)
        r, key = self.read(for_r).unflatten(-1, (H, K)), self.key(for_k).unflatten(-1, (H, K))
        v = self.value(for_v).unflatten(-1, (H, V))
        decay = -math.exp(-0.5) * torch.sigmoid(self.decay(for_decay)).unflatten(-1, (H, K))
        a = torch.sigmoid(self.removal(for_a)).unflatten(-1, (H, K)).to(key.dtype)
        removed = zero_padding(l2_normalise(key * self.removal_key), mask).to(key.dtype)
        k = zero_padding(key * (1 + (a - 1) * self.removal_share), mask).to(key.dtype)
        y, scan = delta_scan(
            r, k, v, read=-removed, write=removed * a, log_decay=zero_padding(decay, mask), state=scan, reset=reset
        )
        y = self.norm(y) + (r * k * self.bonus).sum(-1, keepdim=True) * v
        return y.flatten(2) * self.gate(for_g), scan


def rwkv7_start(width: int, heads: int, key_size: int, depth: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the authors' code starts with: the mixes [6, width] of r, decay, k, v, a and g; decay, a and removal key.

    The last three are [heads·key_size]. Where the code has l/(L-1) or l/L for layer l of L, this has `depth`.
    """
    ramp = torch.arange(width) / width
    exponents = torch.tensor([0.2, 0.9, 0.7, 0.7, 0.9, 0.2]) * (1 - depth)
    mixes = 1 - ramp ** exponents[:, None]
    channels = heads * key_size
    place = torch.arange(channels) / max(channels - 1, 1)
    within = torch.linspace(-1, 1, key_size).repeat(heads) if key_size > 1 else torch.zeros(channels)
    zigzag = within * within.abs()
    decay = -5.5 + 6 * place ** (1 + depth**0.3) + 2.5 * zigzag
    removal = -0.19 + 0.3 * zigzag + 0.4 * (place - 0.5)
    return mixes, decay, removal, 0.71 - 0.1 * (place - 0.5)
