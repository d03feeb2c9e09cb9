"""Gated DeltaNet-2: a delta rule that erases by key channel and writes by value channel."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matrixstate.layers.mixer import About, make_config, zero_padding
from matrixstate.layers.projection import projection
from matrixstate.mixers.delta.channel_delta_mixer import ChannelDeltaConfig, ChannelDeltaMixer
from matrixstate.ops import delta_scan


@dataclass(frozen=True)
class GatedDeltaNet2Config(ChannelDeltaConfig):
    """S_t = (I - k_t (b_t ∘ k_t)ᵀ) diag(α_t) S_{t-1} + k_t (w_t ∘ v_t)ᵀ, y_t = S_tᵀ q_t / √K, with |q| = |k| = 1.

    b_t = σ(W_b x_t) per key channel is what is erased, w_t = σ(W_w x_t) per value channel what is written; with one
    number β_t for both it is KDA, as which it is made otherwise. Source: NVIDIA's code GatedDeltaNet-2, as it stands in
    flash-linear-attention.
    """

    about: ClassVar[About] = About(
        recurrence="S = (I - k (b k)ᵀ) diag(α) S + k (w v)ᵀ; y = Sᵀ q; |k| = 1, b per key, w per value channel",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="delta_scan",
        source="github.com/NVlabs/GatedDeltaNet-2",
    )

    def make(self, width: int) -> "GatedDeltaNet2":
        return GatedDeltaNet2(width, self)


class GatedDeltaNet2(ChannelDeltaMixer):
    """The mixer of `GatedDeltaNet2Config`. State [B, H, K, V]."""

    def __init__(self, width: int, config: GatedDeltaNet2Config | None = None, **options: Any) -> None:
        config = make_config(GatedDeltaNet2Config, width, config, options)
        super().__init__(width, config)
        H, K, V = self.shape
        self.erase, self.write = projection(width, H * K), projection(width, H * V)

    def update(
        self,
        x: Tensor,
        inputs: tuple[Tensor, Tensor, Tensor],
        log_decay: Tensor,
        scan: Tensor | None,
        mask: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        q, k, v = inputs
        k = zero_padding(k, mask)  # both what is erased and what is written are products with k
        erase = self.erased(self.erase(x)).unflatten(-1, k.shape[2:])
        read = (log_decay.exp() * erase * k).to(k.dtype)
        written = v * torch.sigmoid(self.write(x)).unflatten(-1, v.shape[2:])
        return delta_scan(q, k, written, read=read, log_decay=log_decay, state=scan, reset=reset)
