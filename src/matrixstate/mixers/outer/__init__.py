"""Linear attention: mixers whose state is a decaying sum of outer products of keys and values."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.outer.abc import ABC, ABCConfig
from matrixstate.mixers.outer.cosformer2 import CosFormer2, CosFormer2Config
from matrixstate.mixers.outer.gla import GLA, GLAConfig
from matrixstate.mixers.outer.gsa import GSA, GSAConfig
from matrixstate.mixers.outer.hgrn2 import HGRN2, HGRN2Config
from matrixstate.mixers.outer.lightnet import LightNet, LightNetConfig
from matrixstate.mixers.outer.linear_transformer import LinearTransformer, LinearTransformerConfig
from matrixstate.mixers.outer.mamba2 import Mamba2, Mamba2Config
from matrixstate.mixers.outer.mlstm import MLSTM, MLSTMConfig
from matrixstate.mixers.outer.mlstm_large import MLSTMLarge, MLSTMLargeConfig
from matrixstate.mixers.outer.plstm import PLSTM, PLSTMConfig
from matrixstate.mixers.outer.regla import ReGLA, ReGLAConfig
from matrixstate.mixers.outer.retnet import RetNet, RetNetConfig
from matrixstate.mixers.outer.rwkv6 import RWKV6, RWKV6Config
from matrixstate.mixers.outer.transnormer import TransNormer, TransNormerConfig

MIXERS: dict[str, type[MixerConfig]] = {
    "linear_transformer": LinearTransformerConfig,
    "retnet": RetNetConfig,
    "gla": GLAConfig,
    "mamba2": Mamba2Config,
    "hgrn2": HGRN2Config,
    "rwkv6": RWKV6Config,
    "transnormer": TransNormerConfig,
    "lightnet": LightNetConfig,
    "regla": ReGLAConfig,
    "gsa": GSAConfig,
    "abc": ABCConfig,
    "mlstm": MLSTMConfig,
    "mlstm_large": MLSTMLargeConfig,
    "cosformer2": CosFormer2Config,
    "plstm": PLSTMConfig,
}
"""Names of the family's mixers in configuration files."""

__all__ = [
    "ABC",
    "GLA",
    "GSA",
    "HGRN2",
    "MLSTM",
    "PLSTM",
    "RWKV6",
    "ABCConfig",
    "CosFormer2",
    "CosFormer2Config",
    "GLAConfig",
    "GSAConfig",
    "HGRN2Config",
    "LightNet",
    "LightNetConfig",
    "LinearTransformer",
    "LinearTransformerConfig",
    "MLSTMConfig",
    "MLSTMLarge",
    "MLSTMLargeConfig",
    "Mamba2",
    "Mamba2Config",
    "PLSTMConfig",
    "RWKV6Config",
    "ReGLA",
    "ReGLAConfig",
    "RetNet",
    "RetNetConfig",
    "TransNormer",
    "TransNormerConfig",
]
