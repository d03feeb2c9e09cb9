"""Gated DeltaNet: the delta rule with a decay of the state."""

from dataclasses import dataclass
from typing import Any, ClassVar

from matrixstate.layers.mixer import About, make_config
from matrixstate.mixers.delta.delta_mixer import DeltaConfig, DeltaMixer


@dataclass(frozen=True)
class GatedDeltaNetConfig(DeltaConfig):
    """S_t = α_t (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ, y_t = S_tᵀ q_t / √K, with α_t Mamba-2's forget gate.

    Otherwise as DeltaNet, with a gated read-out. Source: Yang et al. 2024, "Gated Delta Networks".
    """

    about: ClassVar[About] = About(
        recurrence="S = α (I - β k kᵀ) S + β k vᵀ; y = Sᵀ q; |k| = 1, β = σ(w x) or 2 σ(w x), α = e^(-A Δ)",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="delta_scan",
        source="Yang et al. 2024, arXiv:2412.06464",
    )

    gate: bool = True
    """Multiply the normed read-out by silu of a projection of the input."""

    def make(self, width: int) -> "GatedDeltaNet":
        return GatedDeltaNet(width, self)


class GatedDeltaNet(DeltaMixer):
    """The mixer of `GatedDeltaNetConfig`. State [B, H, K, V]."""

    def __init__(self, width: int, config: GatedDeltaNetConfig | None = None, **options: Any) -> None:
        config = make_config(GatedDeltaNetConfig, width, config, options)
        super().__init__(width, config, decay=True, micro_steps=1)
