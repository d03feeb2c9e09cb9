"""Parts that models and mixers are built from, and the interface of every mixer."""

from matrixstate.layers.mixer import About, Mixer, MixerConfig, map_state, state_leaves
from matrixstate.layers.mlp import MLP, MLPConfig
from matrixstate.layers.moe import MoE, MoEConfig
from matrixstate.layers.state_matrix import build_state_matrix

MLPS: dict[str, type[MLPConfig]] = {"mlp": MLPConfig, "moe": MoEConfig}
"""Names of MLPs in configuration files; a mapping without `kind` is an `mlp`."""

__all__ = [
    "MLP",
    "MLPS",
    "About",
    "MLPConfig",
    "Mixer",
    "MixerConfig",
    "MoE",
    "MoEConfig",
    "build_state_matrix",
    "map_state",
    "state_leaves",
]
