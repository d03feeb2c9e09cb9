"""Mixers whose state is a product of matrices, one made of each token."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.matrix.bilinear_rnn import BilinearRNN, BilinearRNNConfig
from matrixstate.mixers.matrix.linear_cde import LinearCDE, LinearCDEConfig
from matrixstate.mixers.matrix.mru import MRU, MRUConfig
from matrixstate.mixers.matrix.mru_attention import MRUAttention, MRUAttentionConfig
from matrixstate.mixers.matrix.regular_lrnn import RegularLRNN, RegularLRNNConfig
from matrixstate.mixers.matrix.urn import URN, URNConfig

MIXERS: dict[str, type[MixerConfig]] = {
    "mru": MRUConfig,
    "mru_attention": MRUAttentionConfig,
    "bilinear_rnn": BilinearRNNConfig,
    "regular_lrnn": RegularLRNNConfig,
    "linear_cde": LinearCDEConfig,
    "urn": URNConfig,
}
"""Names of the family's mixers in configuration files."""

__all__ = [
    "MRU",
    "URN",
    "BilinearRNN",
    "BilinearRNNConfig",
    "LinearCDE",
    "LinearCDEConfig",
    "MRUAttention",
    "MRUAttentionConfig",
    "MRUConfig",
    "RegularLRNN",
    "RegularLRNNConfig",
    "URNConfig",
]
