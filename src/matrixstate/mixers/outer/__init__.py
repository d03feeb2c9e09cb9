"""Mixers whose state decays and adds outer products of keys and values."""

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
"""What the family's mixers are called in configuration files."""

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
