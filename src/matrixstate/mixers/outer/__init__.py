"""Linear attention: mixers whose state is a decaying sum of outer products of keys and values."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.outer.gla import GLA, GLAConfig
from matrixstate.mixers.outer.linear_transformer import LinearTransformer, LinearTransformerConfig
from matrixstate.mixers.outer.mamba2 import Mamba2, Mamba2Config
from matrixstate.mixers.outer.retnet import RetNet, RetNetConfig

MIXERS: dict[str, type[MixerConfig]] = {
    "linear_transformer": LinearTransformerConfig,
    "retnet": RetNetConfig,
    "gla": GLAConfig,
    "mamba2": Mamba2Config,
}
"""Names of the family's mixers in configuration files."""

__all__ = [
    "GLA",
    "MIXERS",
    "GLAConfig",
    "LinearTransformer",
    "LinearTransformerConfig",
    "Mamba2",
    "Mamba2Config",
    "RetNet",
    "RetNetConfig",
]
