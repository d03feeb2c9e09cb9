"""Convolutions, which see a fixed number of steps."""

from matrixstate.layers.mixer import MixerConfig
from matrixstate.mixers.conv.channel_mix import RWKVChannelMix, RWKVChannelMixConfig
from matrixstate.mixers.conv.gated_conv import GatedConv, GatedConvConfig

MIXERS: dict[str, type[MixerConfig]] = {"conv": GatedConvConfig, "rwkv_channel_mix": RWKVChannelMixConfig}
"""Names of the family's mixers in configuration files."""

__all__ = ["GatedConv", "GatedConvConfig", "RWKVChannelMix", "RWKVChannelMixConfig"]
