"""Gated DeltaProduct: a decay and then several delta rules per step, whose product can be a rotation."""

from dataclasses import dataclass
from typing import Any, ClassVar

from matrixstate.errors import require
from matrixstate.layers.mixer import About, at_least, make_config
from matrixstate.mixers.delta.delta_mixer import DeltaConfig, DeltaMixer


@dataclass(frozen=True)
class GatedDeltaProductConfig(DeltaConfig):
    """S <- α_t S, then n_h times S <- (I - β k kᵀ) S + β k vᵀ, then y_t = S_tᵀ q_t / √K.

    Each of the n_h rules has a key, a value and a β of its own. With n_h = 1 it is Gated DeltaNet.
    Source: Siems et al. 2025, "DeltaProduct".
    """

    about: ClassVar[About] = About(
        recurrence="S = α S, then n_h times S = (I - β k kᵀ) S + β k vᵀ; y = Sᵀ q; β in (0, 2)",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="delta_scan",
        source="Siems et al. 2025, arXiv:2502.10297",
    )

    micro_steps: int = 2
    """n_h, delta rules per step."""
    decay: bool = True
    """Use a forget gate α_t per head; false gives DeltaProduct."""
    negative_eigenvalues: bool = True
    """β in (0, 2) instead of (0, 1)."""
    gate: bool = True
    """Multiply the normed read-out by silu of a projection of the input."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(*at_least(1, self, "micro_steps"))

    def make(self, width: int) -> "GatedDeltaProduct":
        return GatedDeltaProduct(width, self)


class GatedDeltaProduct(DeltaMixer):
    """The mixer of `GatedDeltaProductConfig`. State [B, H, K, V]."""

    def __init__(self, width: int, config: GatedDeltaProductConfig | None = None, **options: Any) -> None:
        config = make_config(GatedDeltaProductConfig, width, config, options)
        super().__init__(width, config, decay=config.decay, micro_steps=config.micro_steps)
