"""Softmax attention, whose state grows with the sequence."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.attention.attention import Attention, AttentionConfig

MIXERS: dict[str, type[MixerConfig]] = {"attention": AttentionConfig}
"""Names of the family's mixers in configuration files."""

__all__ = ["Attention", "AttentionConfig"]
