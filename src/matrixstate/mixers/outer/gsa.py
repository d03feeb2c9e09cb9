"""Gated slot attention: a fixed number of slots that forget, read by softmax attention."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu

from matrixstate.layers.mixer import About, make_config, positive, zero_padding
from matrixstate.layers.norm import RMSNorm
from matrixstate.mixers.outer.slot_mixer import SlotConfig, SlotMixer


@dataclass(frozen=True)
class GSAConfig(SlotConfig):
    """K_t = diag(f) K_{t-1} + (1 - f) kᵀ, V_t = diag(f) V_{t-1} + (1 - f) vᵀ, y_t = V_tᵀ softmax(K_t q_t) of M slots.

    f_t = σ(W_f x_t)^{1/τ} per slot; q, k and v through silu; the read-out is RMSNorm(silu(y)) over all heads. Products
    of queries and keys are not scaled. Source: Zhang et al. 2024, "Gated Slot Attention"; the read-out as in
    flash-linear-attention.
    """

    about: ClassVar[About] = About(
        recurrence="K = diag(f) K + (1 - f) kᵀ; V likewise; y = Vᵀ softmax(K q); f = σ(W x)^(1/8) per slot",
        state="heads x slots x (key_size + value_size)",
        op="outer_scan",
        source="Zhang et al. 2024, arXiv:2409.07146",
    )

    temperature: float = 8.0
    """τ; slots forget more slowly where it is larger."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), *positive(self, "temperature")]

    def make(self, width: int) -> "GSA":
        return GSA(width, self)


class GSA(SlotMixer):
    """The mixer of `GSAConfig`. State: keys [B, H, K, M] and values [B, H, M, V]."""

    def __init__(self, width: int, config: GSAConfig | None = None, **options: Any) -> None:
        own = make_config(GSAConfig, width, config, options)
        super().__init__(width, own)
        self.config = own
        self.norm = RMSNorm(self.output.in_features)

    def features(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return silu(q), silu(k), silu(v)

    def write(
        self, logits: Tensor, log_sum: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        decay = zero_padding(logsigmoid(logits) / self.config.temperature, mask)
        return decay, -torch.expm1(decay), None

    def read(self, y: Tensor, x: Tensor) -> Tensor:
        return self.norm(silu(y.flatten(2)))
