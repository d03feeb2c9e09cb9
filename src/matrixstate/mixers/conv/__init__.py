"""Mixers that see a few steps back, through a short convolution."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.conv.gated_conv import GatedConv, GatedConvConfig

MIXERS: dict[str, type[MixerConfig]] = {"conv": GatedConvConfig}
"""What the family's mixers are called in configuration files."""

__all__ = ["MIXERS", "GatedConv", "GatedConvConfig"]
