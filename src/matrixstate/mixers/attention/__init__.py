"""Softmax attention, whose state grows with the sequence."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.attention.attention import Attention, AttentionConfig
from matrixstate.mixers.attention.block_recurrent import BlockRecurrent, BlockRecurrentConfig
from matrixstate.mixers.attention.forgetting import ForgettingAttention, ForgettingAttentionConfig
from matrixstate.mixers.attention.shared import SharedAttention, SharedAttentionConfig

MIXERS: dict[str, type[MixerConfig]] = {
    "attention": AttentionConfig,
    "forgetting_attention": ForgettingAttentionConfig,
    "block_recurrent": BlockRecurrentConfig,
    "shared_attention": SharedAttentionConfig,
}
"""Names of the family's mixers in configuration files."""

__all__ = [
    "Attention",
    "AttentionConfig",
    "BlockRecurrent",
    "BlockRecurrentConfig",
    "ForgettingAttention",
    "ForgettingAttentionConfig",
    "SharedAttention",
    "SharedAttentionConfig",
]
