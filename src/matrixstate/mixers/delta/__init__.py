"""Mixers with the delta rule: a write replaces the value that the state holds for its key."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.delta.delta_net import DeltaNet, DeltaNetConfig
from matrixstate.mixers.delta.gated_delta_net import GatedDeltaNet, GatedDeltaNetConfig
from matrixstate.mixers.delta.gated_delta_product import GatedDeltaProduct, GatedDeltaProductConfig

MIXERS: dict[str, type[MixerConfig]] = {
    "deltanet": DeltaNetConfig,
    "gated_deltanet": GatedDeltaNetConfig,
    "gated_deltaproduct": GatedDeltaProductConfig,
}
"""Names of the family's mixers in configuration files."""

__all__ = [
    "MIXERS",
    "DeltaNet",
    "DeltaNetConfig",
    "GatedDeltaNet",
    "GatedDeltaNetConfig",
    "GatedDeltaProduct",
    "GatedDeltaProductConfig",
]
