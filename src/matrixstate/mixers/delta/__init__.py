"""Mixers with the delta rule: a write replaces the value that the state holds for its key."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.delta.comba import Comba, CombaConfig
from matrixstate.mixers.delta.delta_net import DeltaNet, DeltaNetConfig
from matrixstate.mixers.delta.gated_delta_net import GatedDeltaNet, GatedDeltaNetConfig
from matrixstate.mixers.delta.gated_delta_net2 import GatedDeltaNet2, GatedDeltaNet2Config
from matrixstate.mixers.delta.gated_delta_product import GatedDeltaProduct, GatedDeltaProductConfig
from matrixstate.mixers.delta.kda import KDA, KDAConfig
from matrixstate.mixers.delta.longhorn import Longhorn, LonghornConfig
from matrixstate.mixers.delta.mom import MoM, MoMConfig
from matrixstate.mixers.delta.rwkv7 import RWKV7, RWKV7Config

MIXERS: dict[str, type[MixerConfig]] = {
    "deltanet": DeltaNetConfig,
    "gated_deltanet": GatedDeltaNetConfig,
    "gated_deltaproduct": GatedDeltaProductConfig,
    "kda": KDAConfig,
    "rwkv7": RWKV7Config,
    "longhorn": LonghornConfig,
    "comba": CombaConfig,
    "gated_deltanet2": GatedDeltaNet2Config,
    "mom": MoMConfig,
}
"""Names of the family's mixers in configuration files."""

__all__ = [
    "KDA",
    "RWKV7",
    "Comba",
    "CombaConfig",
    "DeltaNet",
    "DeltaNetConfig",
    "GatedDeltaNet",
    "GatedDeltaNet2",
    "GatedDeltaNet2Config",
    "GatedDeltaNetConfig",
    "GatedDeltaProduct",
    "GatedDeltaProductConfig",
    "KDAConfig",
    "Longhorn",
    "LonghornConfig",
    "MoM",
    "MoMConfig",
    "RWKV7Config",
]
