"""Mixers whose state is a product of matrices, one made of each token."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.matrix.mru import MRU, MRUConfig
from matrixstate.mixers.matrix.mru_attention import MRUAttention, MRUAttentionConfig

MIXERS: dict[str, type[MixerConfig]] = {"mru": MRUConfig, "mru_attention": MRUAttentionConfig}
"""Names of the family's mixers in configuration files."""

__all__ = ["MRU", "MRUAttention", "MRUAttentionConfig", "MRUConfig"]
