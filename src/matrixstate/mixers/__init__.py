"""Mixers, in families by the kind of their state. Each file holds one mixer: its config and its module."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers import attention, cells, conv, delta, matrix, outer
from matrixstate.mixers.attention import Attention, AttentionConfig
from matrixstate.mixers.bidirectional import Bidirectional, BidirectionalConfig
from matrixstate.mixers.cells import GRU, LSTM, M2RNN, RNN, GRUConfig, LSTMConfig, M2RNNConfig, RNNConfig
from matrixstate.mixers.conv import GatedConv, GatedConvConfig
from matrixstate.mixers.delta import (
    DeltaNet,
    DeltaNetConfig,
    GatedDeltaNet,
    GatedDeltaNetConfig,
    GatedDeltaProduct,
    GatedDeltaProductConfig,
)
from matrixstate.mixers.matrix import MRU, MRUAttention, MRUAttentionConfig, MRUConfig
from matrixstate.mixers.outer import (
    GLA,
    GLAConfig,
    LinearTransformer,
    LinearTransformerConfig,
    Mamba2,
    Mamba2Config,
    RetNet,
    RetNetConfig,
)
from matrixstate.plugins import extensible

_FAMILIES = (matrix, cells, attention, conv, outer, delta)
_MIXERS: dict[str, type[MixerConfig]] = {name: config for family in _FAMILIES for name, config in family.MIXERS.items()}
MIXERS = extensible("mixers", _MIXERS, MixerConfig)
"""Names of all mixers in configuration files; plug-ins add to it."""

__all__ = [
    "GLA",
    "GRU",
    "LSTM",
    "M2RNN",
    "MIXERS",
    "MRU",
    "RNN",
    "Attention",
    "AttentionConfig",
    "Bidirectional",
    "BidirectionalConfig",
    "DeltaNet",
    "DeltaNetConfig",
    "GLAConfig",
    "GRUConfig",
    "GatedConv",
    "GatedConvConfig",
    "GatedDeltaNet",
    "GatedDeltaNetConfig",
    "GatedDeltaProduct",
    "GatedDeltaProductConfig",
    "LSTMConfig",
    "LinearTransformer",
    "LinearTransformerConfig",
    "M2RNNConfig",
    "MRUAttention",
    "MRUAttentionConfig",
    "MRUConfig",
    "Mamba2",
    "Mamba2Config",
    "RNNConfig",
    "RetNet",
    "RetNetConfig",
]
