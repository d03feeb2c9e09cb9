"""Mixers and parts. One mixer a file: a frozen Config and its Module, side by side."""

from matrixstate.layers.attention import Attention, AttentionConfig
from matrixstate.layers.bidirectional import Bidirectional, BidirectionalConfig
from matrixstate.layers.delta_net import DeltaNet, DeltaNetConfig
from matrixstate.layers.gated_conv import GatedConv, GatedConvConfig
from matrixstate.layers.gated_delta_net import GatedDeltaNet, GatedDeltaNetConfig
from matrixstate.layers.gated_delta_product import GatedDeltaProduct, GatedDeltaProductConfig
from matrixstate.layers.gla import GLA, GLAConfig
from matrixstate.layers.gru import GRU, GRUConfig
from matrixstate.layers.linear_transformer import LinearTransformer, LinearTransformerConfig
from matrixstate.layers.lstm import LSTM, LSTMConfig
from matrixstate.layers.m2rnn import M2RNN, M2RNNConfig
from matrixstate.layers.mamba2 import Mamba2, Mamba2Config
from matrixstate.layers.mixer import About, Mixer, MixerConfig, map_state, state_leaves
from matrixstate.layers.mlp import MLP, MLPConfig
from matrixstate.layers.moe import MoE, MoEConfig
from matrixstate.layers.mru import MRU, MRUConfig
from matrixstate.layers.mru_attention import MRUAttention, MRUAttentionConfig
from matrixstate.layers.retnet import RetNet, RetNetConfig
from matrixstate.layers.rnn import RNN, RNNConfig
from matrixstate.layers.state_matrix import build_state_matrix
from matrixstate.plugins import extensible

_MIXERS: dict[str, type[MixerConfig]] = {
    "mru": MRUConfig,
    "m2rnn": M2RNNConfig,
    "attention": AttentionConfig,
    "mru_attention": MRUAttentionConfig,
    "conv": GatedConvConfig,
    "linear_transformer": LinearTransformerConfig,
    "retnet": RetNetConfig,
    "gla": GLAConfig,
    "mamba2": Mamba2Config,
    "deltanet": DeltaNetConfig,
    "gated_deltanet": GatedDeltaNetConfig,
    "gated_deltaproduct": GatedDeltaProductConfig,
    "rnn": RNNConfig,
    "gru": GRUConfig,
    "lstm": LSTMConfig,
}
MIXERS = extensible("mixers", _MIXERS, MixerConfig)
"""What mixers are called in configuration files; plug-ins add to it."""

MLPS: dict[str, type[MLPConfig]] = {"mlp": MLPConfig, "moe": MoEConfig}
"""What feed-forward layers are called in configuration files; a mapping without a kind is an mlp."""

__all__ = [
    "GLA",
    "GRU",
    "LSTM",
    "M2RNN",
    "MIXERS",
    "MLP",
    "MLPS",
    "MRU",
    "RNN",
    "About",
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
    "MLPConfig",
    "MRUAttention",
    "MRUAttentionConfig",
    "MRUConfig",
    "Mamba2",
    "Mamba2Config",
    "Mixer",
    "MixerConfig",
    "MoE",
    "MoEConfig",
    "RNNConfig",
    "RetNet",
    "RetNetConfig",
    "build_state_matrix",
    "map_state",
    "state_leaves",
]
