"""Mixers whose state is a vector that decays channel by channel, by the op `linear_scan`."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.scan.gilr import GILR, GILRConfig
from matrixstate.mixers.scan.hgrn import HGRN, HGRNConfig
from matrixstate.mixers.scan.lru import LRU, LRUConfig
from matrixstate.mixers.scan.min_gru import MinGRU, MinGRUConfig
from matrixstate.mixers.scan.min_lstm import MinLSTM, MinLSTMConfig
from matrixstate.mixers.scan.qrnn import QRNN, QRNNConfig
from matrixstate.mixers.scan.rg_lru import RGLRU, RGLRUConfig
from matrixstate.mixers.scan.s5 import S5, S5Config
from matrixstate.mixers.scan.sru import SRU, SRUConfig

MIXERS: dict[str, type[MixerConfig]] = {
    "rg_lru": RGLRUConfig,
    "min_gru": MinGRUConfig,
    "min_lstm": MinLSTMConfig,
    "hgrn": HGRNConfig,
    "lru": LRUConfig,
    "s5": S5Config,
    "gilr": GILRConfig,
    "qrnn": QRNNConfig,
    "sru": SRUConfig,
}
"""Names of the family's mixers in configuration files."""

__all__ = [
    "GILR",
    "HGRN",
    "LRU",
    "QRNN",
    "RGLRU",
    "S5",
    "SRU",
    "GILRConfig",
    "HGRNConfig",
    "LRUConfig",
    "MinGRU",
    "MinGRUConfig",
    "MinLSTM",
    "MinLSTMConfig",
    "QRNNConfig",
    "RGLRUConfig",
    "S5Config",
    "SRUConfig",
]
