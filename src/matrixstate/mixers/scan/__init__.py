"""Mixers whose state is a vector that decays channel by channel, by `linear_scan` and `normalised_scan`."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.scan.aaren import Aaren, AarenConfig
from matrixstate.mixers.scan.dss import DSS, DSSConfig
from matrixstate.mixers.scan.gateloop import GateLoop, GateLoopConfig
from matrixstate.mixers.scan.gilr import GILR, GILRConfig
from matrixstate.mixers.scan.gilr_lstm import GILRLSTM, GILRLSTMConfig
from matrixstate.mixers.scan.gss import GSS, GSSConfig
from matrixstate.mixers.scan.hgrn import HGRN, HGRNConfig
from matrixstate.mixers.scan.liquid_s4 import LiquidS4, LiquidS4Config
from matrixstate.mixers.scan.lmu import LMU, LMUConfig
from matrixstate.mixers.scan.longhorn_diagonal import LonghornDiagonal, LonghornDiagonalConfig
from matrixstate.mixers.scan.lru import LRU, LRUConfig
from matrixstate.mixers.scan.lssl import LSSL, LSSLConfig
from matrixstate.mixers.scan.mamba import Mamba, MambaConfig
from matrixstate.mixers.scan.mega_ema import MegaEMA, MegaEMAConfig
from matrixstate.mixers.scan.min_gru import MinGRU, MinGRUConfig
from matrixstate.mixers.scan.min_lstm import MinLSTM, MinLSTMConfig
from matrixstate.mixers.scan.qrnn import QRNN, QRNNConfig
from matrixstate.mixers.scan.rg_lru import RGLRU, RGLRUConfig
from matrixstate.mixers.scan.rwkv4 import RWKV4, RWKV4Config
from matrixstate.mixers.scan.s4 import S4, S4Config
from matrixstate.mixers.scan.s4d import S4D, S4DConfig
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
    "rwkv4": RWKV4Config,
    "aaren": AarenConfig,
    "mamba": MambaConfig,
    "gateloop": GateLoopConfig,
    "s4d": S4DConfig,
    "gss": GSSConfig,
    "mega_ema": MegaEMAConfig,
    "longhorn_diagonal": LonghornDiagonalConfig,
    "s4": S4Config,
    "lssl": LSSLConfig,
    "lmu": LMUConfig,
    "liquid_s4": LiquidS4Config,
    "gilr_lstm": GILRLSTMConfig,
    "dss": DSSConfig,
}
"""Names of the family's mixers in configuration files."""

__all__ = [
    "DSS",
    "GILR",
    "GILRLSTM",
    "GSS",
    "HGRN",
    "LMU",
    "LRU",
    "LSSL",
    "QRNN",
    "RGLRU",
    "RWKV4",
    "S4",
    "S4D",
    "S5",
    "SRU",
    "Aaren",
    "AarenConfig",
    "DSSConfig",
    "GILRConfig",
    "GILRLSTMConfig",
    "GSSConfig",
    "GateLoop",
    "GateLoopConfig",
    "HGRNConfig",
    "LMUConfig",
    "LRUConfig",
    "LSSLConfig",
    "LiquidS4",
    "LiquidS4Config",
    "LonghornDiagonal",
    "LonghornDiagonalConfig",
    "Mamba",
    "MambaConfig",
    "MegaEMA",
    "MegaEMAConfig",
    "MinGRU",
    "MinGRUConfig",
    "MinLSTM",
    "MinLSTMConfig",
    "QRNNConfig",
    "RGLRUConfig",
    "RWKV4Config",
    "S4Config",
    "S4DConfig",
    "S5Config",
    "SRUConfig",
]
