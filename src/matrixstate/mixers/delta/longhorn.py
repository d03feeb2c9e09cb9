"""Longhorn in its exact form: a delta rule whose step is the closed solution of an online regression."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from matrixstate.layers.heads import HeadInputs, HeadInputsConfig, ScanMixer
from matrixstate.layers.low_rank import LowRank
from matrixstate.layers.mixer import About, make_config, zero_padding
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, delta_rule


@dataclass(frozen=True)
class LonghornConfig(HeadInputsConfig):
    """S_t = (I - ε_t k_t k_tᵀ) S_{t-1} + ε_t k_t v_tᵀ, y_t = S_tᵀ q_t + D v_t, with ε_t = β_t / (1 + β_t |k_t|²).

    S_t minimises |S - S_{t-1}|² + β_t |Sᵀ k_t - v_t|², with β_t = σ(W_2 W_1 x_t + b). ε_t |k_t|² < 1 for any key, so
    keys are not normalised and nothing else forgets. The read-out is gated with silu(G x_t).
    Source: Liu et al. 2024, "Longhorn". Their layer, `longhorn_diagonal`, keeps the diagonal of k kᵀ alone and has one
    β per channel; this is the solution itself, with a β per head and q, k and v of several heads from one convolution.
    """

    about: ClassVar[About] = About(
        recurrence="S = (I - ε k kᵀ) S + ε k vᵀ; y = Sᵀ q + D v; ε = β / (1 + β |k|²), β = σ(W x)",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="delta_scan",
        source="Liu et al. 2024, arXiv:2407.14207",
    )

    key_size: int = 16
    """K, the paper's state size N: channels of a head's queries and keys."""
    conv: int = 4
    """Steps of the short convolution (with bias, followed by silu) of q, k and v. 0: silu alone."""

    def make(self, width: int) -> "Longhorn":
        return Longhorn(width, self)


class Longhorn(ScanMixer):
    """The mixer of `LonghornConfig`. State [B, H, K, V]. At initialisation D is 1 and b is 0."""

    multiply_adds = 4

    no_weight_decay = ("skip",)

    def __init__(self, width: int, config: LonghornConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(LonghornConfig, width, config, options)
        H, K, V = config.shape
        self.config, self.width, self.shape = config, width, config.shape
        parts = ((H, K), (H, K), (H, V))
        self.inputs = HeadInputs(width, parts, config.conv, silu=True, bias=True, std=config.input_std)
        self.beta = LowRank(width, -(-width // 16), H, bias=torch.zeros(H))  # the paper's rank, rounded up
        self.skip = nn.Parameter(torch.ones(H))
        self.gate = projection(width, H * V)
        self.output = projection(H * V, width)

    def mix(
        self, x: Tensor, inputs: list[Tensor], scan: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = inputs
        beta = torch.sigmoid(self.beta(x))
        length = k.to(accumulation_dtype(k.dtype)).square().sum(-1)
        step = zero_padding(beta / (1 + beta * length), mask)
        y, scan = delta_rule(q, k, v, step, state=scan, reset=reset)
        return (y + self.skip[:, None] * v).flatten(2) * silu(self.gate(x)), scan
