"""Mixers whose state is a vector that decays channel by channel, by the op `linear_scan`."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.scan.hgrn import HGRN, HGRNConfig
from matrixstate.mixers.scan.lru import LRU, LRUConfig
from matrixstate.mixers.scan.min_gru import MinGRU, MinGRUConfig
from matrixstate.mixers.scan.min_lstm import MinLSTM, MinLSTMConfig
from matrixstate.mixers.scan.rg_lru import RGLRU, RGLRUConfig
from matrixstate.mixers.scan.s5 import S5, S5Config

MIXERS: dict[str, type[MixerConfig]] = {
    "rg_lru": RGLRUConfig,
    "min_gru": MinGRUConfig,
    "min_lstm": MinLSTMConfig,
    "hgrn": HGRNConfig,
    "lru": LRUConfig,
    "s5": S5Config,
}
"""Names of the family's mixers in configuration files."""

__all__ = [
    "HGRN",
    "LRU",
    "RGLRU",
    "S5",
    "HGRNConfig",
    "LRUConfig",
    "MinGRU",
    "MinGRUConfig",
    "MinLSTM",
    "MinLSTMConfig",
    "RGLRUConfig",
    "S5Config",
]
