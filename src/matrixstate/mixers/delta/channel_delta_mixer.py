"""The base of the mixers with a delta rule and a decay per key channel: KDA and Gated DeltaNet-2."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from matrixstate.layers.forget_gate import LogForgetGate
from matrixstate.layers.heads import HeadInputs, HeadInputsConfig, ScanMixer, l2_normalise
from matrixstate.layers.low_rank import LowRank
from matrixstate.layers.mixer import at_least, at_least_zero, zero_padding
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection


@dataclass(frozen=True)
class ChannelDeltaConfig(HeadInputsConfig):
    """The options of KDA and Gated DeltaNet-2."""

    conv: int = 4
    """Steps of the short convolution (followed by silu) of q, k and v. 0: silu alone."""
    rank: int | None = None
    """Channels between the two maps of the decay and of the gate. Default: value_size, as in the papers."""
    negative_eigenvalues: bool = False
    """What is erased up to 2 instead of up to 1. Source: Grazzi et al. 2024."""
    unit_eps: float = 0.0
    """Added to the squared lengths by which q and k are divided. 0: their lengths are 1, as in the paper; 1e-6 in
    flash-linear-attention and in the models made with it, where short vectors stay short."""

    def checks(self) -> list[tuple[bool, str]]:
        rank = () if self.rank is None else at_least(1, self, "rank")
        return [*super().checks(), *rank, at_least_zero(self, "unit_eps")]


class ChannelDeltaMixer(ScanMixer):
    """q, k and v from a short convolution, |q| = |k| = 1, a decay per key channel, `update`, and a gated read-out.

    The decay is Mamba-2's forget gate of a low-rank map, with its initialisation; the read-out is RMS-normed per head
    and gated with σ of another low-rank map. Subclasses define `update`.
    """

    multiply_adds = 4

    def __init__(self, width: int, config: ChannelDeltaConfig) -> None:
        super().__init__()
        H, K, V = config.shape
        rank = config.rank or V
        self.config, self.width, self.shape = config, width, config.shape
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), config.conv, silu=True, std=config.input_std)
        self.forget = LowRank(width, rank, H * K)
        self.forget_gate = LogForgetGate((H, K), rate_min=1.0)
        self.gate = LowRank(width, rank, H * V, bias=torch.zeros(H * V))
        self.norm = RMSNorm(V)
        self.output = projection(H * V, width)

    def mix(
        self, x: Tensor, inputs: list[Tensor], scan: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = inputs
        q, k = (l2_normalise(a, self.config.unit_eps) for a in (q, k))
        q = q / math.sqrt(self.config.key_size)
        decay = zero_padding(self.forget_gate(self.forget(x).unflatten(-1, self.shape[:2])), mask)
        y, scan = self.update(x, (q, k, v), decay, scan, mask, reset)
        return self.norm(y).flatten(2) * torch.sigmoid(self.gate(x)).to(y.dtype), scan

    @abstractmethod
    def update(
        self,
        x: Tensor,
        inputs: tuple[Tensor, Tensor, Tensor],
        log_decay: Tensor,
        scan: Tensor | None,
        mask: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The scan's y [B, T, H, V] and state, for q, k, v and log_decay [B, T, H, K]; the rest as of `mix`."""

    def erased(self, logits: Tensor) -> Tensor:
        """The share that is erased, in (0, 1) or (0, 2), in at least float32."""
        share = torch.sigmoid(logits.to(self.norm.weight.dtype))
        return 2 * share if self.config.negative_eigenvalues else share
