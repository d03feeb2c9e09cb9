"""Mixers that attend to every earlier step; their state grows with the sequence."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.attention.attention import Attention, AttentionConfig

MIXERS: dict[str, type[MixerConfig]] = {"attention": AttentionConfig}
"""What the family's mixers are called in configuration files."""

__all__ = ["MIXERS", "Attention", "AttentionConfig"]
