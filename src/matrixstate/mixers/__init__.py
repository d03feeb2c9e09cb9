"""Mixers, in families by the kind of their state. Each file holds one mixer: its config and its module."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers import attention, cells, conv, delta, matrix, outer
from matrixstate.mixers.attention import Attention, AttentionConfig
from matrixstate.mixers.bidirectional import Bidirectional, BidirectionalConfig
from matrixstate.mixers.cells import GRU, LSTM, M2RNN, RNN, GRUConfig, LSTMConfig, M2RNNConfig, RNNConfig
from matrixstate.mixers.conv import GatedConv, GatedConvConfig
from matrixstate.mixers.delta import (
    KDA,
    RWKV7,
    Comba,
    CombaConfig,
    DeltaNet,
    DeltaNetConfig,
    GatedDeltaNet,
    GatedDeltaNet2,
    GatedDeltaNet2Config,
    GatedDeltaNetConfig,
    GatedDeltaProduct,
    GatedDeltaProductConfig,
    KDAConfig,
    Longhorn,
    LonghornConfig,
    RWKV7Config,
)
from matrixstate.mixers.matrix import MRU, MRUAttention, MRUAttentionConfig, MRUConfig
from matrixstate.mixers.outer import (
    GLA,
    HGRN2,
    RWKV6,
    GLAConfig,
    HGRN2Config,
    LightNet,
    LightNetConfig,
    LinearTransformer,
    LinearTransformerConfig,
    Mamba2,
    Mamba2Config,
    ReGLA,
    ReGLAConfig,
    RetNet,
    RetNetConfig,
    RWKV6Config,
    TransNormer,
    TransNormerConfig,
)
from matrixstate.plugins import extensible

_FAMILIES = (matrix, cells, attention, conv, outer, delta)
_MIXERS: dict[str, type[MixerConfig]] = {name: config for family in _FAMILIES for name, config in family.MIXERS.items()}
MIXERS = extensible("mixers", _MIXERS, MixerConfig)
"""Names of all mixers in configuration files; plug-ins add to it."""

__all__ = [
    "GLA",
    "GRU",
    "HGRN2",
    "KDA",
    "LSTM",
    "M2RNN",
    "MIXERS",
    "MRU",
    "RNN",
    "RWKV6",
    "RWKV7",
    "Attention",
    "AttentionConfig",
    "Bidirectional",
    "BidirectionalConfig",
    "Comba",
    "CombaConfig",
    "DeltaNet",
    "DeltaNetConfig",
    "GLAConfig",
    "GRUConfig",
    "GatedConv",
    "GatedConvConfig",
    "GatedDeltaNet",
    "GatedDeltaNet2",
    "GatedDeltaNet2Config",
    "GatedDeltaNetConfig",
    "GatedDeltaProduct",
    "GatedDeltaProductConfig",
    "HGRN2Config",
    "KDAConfig",
    "LSTMConfig",
    "LightNet",
    "LightNetConfig",
    "LinearTransformer",
    "LinearTransformerConfig",
    "Longhorn",
    "LonghornConfig",
    "M2RNNConfig",
    "MRUAttention",
    "MRUAttentionConfig",
    "MRUConfig",
    "Mamba2",
    "Mamba2Config",
    "RNNConfig",
    "RWKV6Config",
    "RWKV7Config",
    "ReGLA",
    "ReGLAConfig",
    "RetNet",
    "RetNetConfig",
    "TransNormer",
    "TransNormerConfig",
]
