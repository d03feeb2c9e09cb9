"""Config, optimizer, one readable loop, checkpoints and logs."""

from matrixstate.training.config import CHOICES, RunConfig, TrainingConfig, load_config
from matrixstate.training.loop import Outcome, load_model, start, train
from matrixstate.training.report import Reporter
from matrixstate.training.run import Run

__all__ = [
    "CHOICES",
    "Outcome",
    "Reporter",
    "Run",
    "RunConfig",
    "TrainingConfig",
    "load_config",
    "load_model",
    "start",
    "train",
]
