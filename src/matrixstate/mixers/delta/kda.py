"""Kimi Delta Attention: the gated delta rule with a decay per key channel."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from matrixstate.layers.mixer import About, make_config, zero_padding
from matrixstate.layers.projection import projection
from matrixstate.mixers.delta.channel_delta_mixer import ChannelDeltaConfig, ChannelDeltaMixer
from matrixstate.ops import gated_delta_rule


@dataclass(frozen=True)
class KDAConfig(ChannelDeltaConfig):
    """S_t = (I - β_t k_t k_tᵀ) diag(α_t) S_{t-1} + β_t k_t v_tᵀ, y_t = S_tᵀ q_t / √K, with |q| = |k| = 1.

    α_t = e^{-A Δ_t} per key channel, with A per head and Δ_t = softplus(W_2 W_1 x_t + b), β_t = σ(w x_t). q, k and v
    come from a short convolution and silu; the read-out is RMS-normed per head and gated with σ(G_2 G_1 x_t + c).
    Source: Kimi Team 2025, "Kimi Linear".
    """

    about: ClassVar[About] = About(
        recurrence="S = (I - β k kᵀ) diag(α) S + β k vᵀ; y = Sᵀ q; |k| = 1, α = e^(-A Δ) per key channel",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="delta_scan",
        source="Kimi Team 2025, arXiv:2510.26692",
    )

    def make(self, width: int) -> "KDA":
        return KDA(width, self)


class KDA(ChannelDeltaMixer):
    """The mixer of `KDAConfig`. State [B, H, K, V].

    At initialisation A is uniform in (1, 16) and softplus(b) log-uniform in [0.001, 0.1], as in Gated DeltaNet-2.
    """

    def __init__(self, width: int, config: KDAConfig | None = None, **options: Any) -> None:
        config = make_config(KDAConfig, width, config, options)
        super().__init__(width, config)
        self.beta = projection(width, config.heads)

    def update(
        self,
        x: Tensor,
        inputs: tuple[Tensor, Tensor, Tensor],
        log_decay: Tensor,
        scan: Tensor | None,
        mask: Tensor | None,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        beta = zero_padding(self.erased(self.beta(x)), mask)
        return gated_delta_rule(*inputs, beta, log_decay, state=scan, reset=reset)
