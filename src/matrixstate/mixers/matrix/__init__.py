"""Mixers whose state is a product of matrices made of the tokens."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.matrix.mru import MRU, MRUConfig
from matrixstate.mixers.matrix.mru_attention import MRUAttention, MRUAttentionConfig

MIXERS: dict[str, type[MixerConfig]] = {"mru": MRUConfig, "mru_attention": MRUAttentionConfig}
"""What the family's mixers are called in configuration files."""

__all__ = ["MIXERS", "MRU", "MRUAttention", "MRUAttentionConfig", "MRUConfig"]
