"""cosFormer2: linear attention without decay whose weights turn with the distance of the steps."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from matrixstate.layers.heads import HeadInputs, HeadInputsConfig, KeyValueMixer
from matrixstate.layers.low_rank import LowRank
from matrixstate.layers.mixer import About, StateMatrices, at_least, check_inputs, make_config, zero_padding
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.positions import count_positions, waves
from matrixstate.layers.projection import projection
from matrixstate.ops import outer_scan


@dataclass(frozen=True)
class CosFormer2Config(HeadInputsConfig):
    """y_t = Σ_{s<=t} w_ts v_s, w_ts = Σ_c silu(q_tc) silu(k_sc) cos(θ_c (t - s)), with no decay and no denominator.

    θ_c = 10000^{-2c/K} for the first half of the channels c and 0 for the others. As a recurrence: S_t = S_{t-1} +
    φ(k_t) v_tᵀ and y_t = S_tᵀ φ(q_t), where φ(x) at step t holds x_c cos θ_c t and x_c sin θ_c t. The read-out is
    RMS-normed over all heads and gated with σ(G_2 G_1 x_t). Source: Qin et al. 2022, "cosFormer", whose weights depend
    on the length of the sequence, and Shen et al. 2024, "Scaling Laws for Linear Complexity Language Models", whose
    cosFormer2 this is, without the layer of positions that they put behind the embedding.
    """

    about: ClassVar[About] = About(
        recurrence="S = S + φ(k) vᵀ; y = Sᵀ φ(q); φ = silu(x) times cos and sin of θ t per key channel",
        state="heads x 3/2 key_size x value_size, and the position",
        op="outer_scan",
        source="Shen et al. 2024, arXiv:2406.16690",
    )

    rank: int = 32
    """Channels between G_1 and G_2, the rank of the gate's projection; the head size in the authors' code."""

    def checks(self) -> list[tuple[bool, str]]:
        even = (self.key_size % 2 == 0, f"key_size: expected an even number, got {self.key_size}")
        return [*super().checks(), even, *at_least(1, self, "rank")]

    def make(self, width: int) -> "CosFormer2":
        return CosFormer2(width, self)


class CosFormer2State(NamedTuple):
    """What a cosFormer2 mixer carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, channels of the inputs]; None without a convolution
    scan: Tensor | None  # [B, H, 3/2 K, V]; None before the first step
    position: Tensor  # [B] int64, the position of the next step in its document


class CosFormer2(KeyValueMixer):
    """The mixer of `CosFormer2Config`."""

    multiply_adds = 2

    def __init__(self, width: int, config: CosFormer2Config | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(CosFormer2Config, width, config, options)
        H, K, V = config.shape
        self.config, self.width, self.shape = config, width, (H, K + K // 2, V)
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), config.conv, std=config.input_std)
        self.gate = LowRank(width, config.rank, H * V)
        self.norm = RMSNorm(H * V)
        self.output = projection(H * V, width)

    def forward(
        self,
        x: Tensor,
        state: CosFormer2State | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, CosFormer2State]:
        x, reset = check_inputs("CosFormer2", x, self.width, mask, reset)
        state = CosFormer2State(None, None, self._start(x.shape[0])) if state is None else state
        (q, k, v), conv = self.inputs(x, state.conv, mask, reset)
        position, following = count_positions(state.position, x.shape[1], mask, reset)
        q, k = features(silu(q), position), zero_padding(features(silu(k), position), mask)
        y, scan = outer_scan(q, k, v, state=state.scan, reset=reset)
        y = self.norm(y.flatten(2)) * torch.sigmoid(self.gate(x))
        return self.output(y), CosFormer2State(conv, scan, following)

    def _start(self, batch: int) -> Tensor:
        return torch.zeros(batch, dtype=torch.int64, device=self.output.weight.device)

    def init_state(self, batch: int) -> CosFormer2State:
        return CosFormer2State(self.inputs.init_state(batch), self._zeros(batch), self._start(batch))

    def state_matrices(self, state: CosFormer2State) -> StateMatrices | None:
        return None if state.scan is None else StateMatrices(state.scan)


def features(x: Tensor, position: Tensor) -> Tensor:
    """φ(x): x [B, T, H, K] at position [B, T] -> [B, T, H, 3/2 K], without the sines of angles 0, which are zeros."""
    cos, sin = waves(x, position)
    turning, still = x.chunk(2, dim=-1)
    return torch.cat([turning * cos, turning * sin, still], dim=-1)
