"""Language models: configs, presets, the model, counts of parameters and FLOPs, generation, and state files."""

from matrixstate.models.config import BlockConfig, ModelConfig
from matrixstate.models.counts import Counts, count
from matrixstate.models.generation import Generation, Sampling, begin, generate
from matrixstate.models.lm import LanguageModel, ModelState
from matrixstate.models.presets import PRESETS, preset
from matrixstate.models.state_file import SavedState, fork, load_state, save_state

__all__ = [
    "PRESETS",
    "BlockConfig",
    "Counts",
    "Generation",
    "LanguageModel",
    "ModelConfig",
    "ModelState",
    "Sampling",
    "SavedState",
    "begin",
    "count",
    "fork",
    "generate",
    "load_state",
    "preset",
    "save_state",
]
