"""Mixers whose state is corrected by the delta rule: a write replaces what its key recalls."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.delta.delta_net import DeltaNet, DeltaNetConfig
from matrixstate.mixers.delta.gated_delta_net import GatedDeltaNet, GatedDeltaNetConfig
from matrixstate.mixers.delta.gated_delta_product import GatedDeltaProduct, GatedDeltaProductConfig

MIXERS: dict[str, type[MixerConfig]] = {
    "deltanet": DeltaNetConfig,
    "gated_deltanet": GatedDeltaNetConfig,
    "gated_deltaproduct": GatedDeltaProductConfig,
}
"""What the family's mixers are called in configuration files."""

__all__ = [
    "MIXERS",
    "DeltaNet",
    "DeltaNetConfig",
    "GatedDeltaNet",
    "GatedDeltaNetConfig",
    "GatedDeltaProduct",
    "GatedDeltaProductConfig",
]
