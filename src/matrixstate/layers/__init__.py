"""Mixers and parts. One mixer a file: a frozen Config and its Module, side by side."""

from matrixstate.layers.attention import Attention, AttentionConfig
from matrixstate.layers.gated_conv import GatedConv, GatedConvConfig
from matrixstate.layers.m2rnn import M2RNN, M2RNNConfig
from matrixstate.layers.mixer import Mixer, MixerConfig, map_state, state_leaves
from matrixstate.layers.mlp import MLP, MLPConfig
from matrixstate.layers.mru import MRU, MRUConfig
from matrixstate.layers.state_matrix import build_state_matrix

MIXERS: dict[str, type[MixerConfig]] = {
    "mru": MRUConfig,
    "m2rnn": M2RNNConfig,
    "attention": AttentionConfig,
    "conv": GatedConvConfig,
}
"""What mixers are called in configuration files."""

__all__ = [
    "M2RNN",
    "MIXERS",
    "MLP",
    "MRU",
    "Attention",
    "AttentionConfig",
    "GatedConv",
    "GatedConvConfig",
    "M2RNNConfig",
    "MLPConfig",
    "MRUConfig",
    "Mixer",
    "MixerConfig",
    "build_state_matrix",
    "map_state",
    "state_leaves",
]
