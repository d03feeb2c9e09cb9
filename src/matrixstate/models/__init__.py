"""Config -> blocks -> language model; counts, presets and generation."""

from matrixstate.models.config import BlockConfig, ModelConfig
from matrixstate.models.counts import Counts, count
from matrixstate.models.generation import Sampling, generate
from matrixstate.models.lm import LanguageModel, ModelState
from matrixstate.models.presets import PRESETS, preset

__all__ = [
    "PRESETS",
    "BlockConfig",
    "Counts",
    "LanguageModel",
    "ModelConfig",
    "ModelState",
    "Sampling",
    "count",
    "generate",
    "preset",
]
