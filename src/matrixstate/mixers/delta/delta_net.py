"""DeltaNet: linear attention that replaces what its state holds for a key instead of adding to it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from matrixstate.layers.mixer import About, make_config
from matrixstate.mixers.delta.delta_mixer import DeltaConfig, DeltaMixer


@dataclass(frozen=True)
class DeltaNetConfig(DeltaConfig):
    """S_t = (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ, y_t = S_tᵀ q_t / √K, with |q| = |k| = 1, β_t = σ(w x_t).

    q, k and v come from a short convolution and silu; the read-out is RMS-normed per head.
    Source: Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule"; the rule: Schlag et al. 2021.
    """

    about: ClassVar[About] = About(
        recurrence="S = (I - β k kᵀ) S + β k vᵀ; y = Sᵀ q; |k| = 1, β = σ(w x)",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="delta_scan",
        source="Yang et al. 2024, arXiv:2406.06484",
    )

    def make(self, width: int) -> "DeltaNet":
        return DeltaNet(width, self)


class DeltaNet(DeltaMixer):
    """The mixer of `DeltaNetConfig`. State [B, H, K, V]."""

    def __init__(self, width: int, config: DeltaNetConfig | None = None, **options: Any) -> None:
        super().__init__(width, make_config(DeltaNetConfig, width, config, options), decay=False, micro_steps=1)
