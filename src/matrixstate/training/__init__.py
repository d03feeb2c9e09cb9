"""Configs, streams of data, optimizer, one readable loop, checkpoints and logs."""

from matrixstate.training.config import CHOICES, RunConfig, TrainingConfig
from matrixstate.training.loop import Outcome, train
from matrixstate.training.reading import decode_config, load_config
from matrixstate.training.report import Reporter
from matrixstate.training.resume import load_model
from matrixstate.training.run import Run
from matrixstate.training.start import start
from matrixstate.training.task_config import TaskRunConfig, TaskTrainingConfig
from matrixstate.training.text_config import TextRunConfig, TextTrainingConfig

__all__ = [
    "CHOICES",
    "Outcome",
    "Reporter",
    "Run",
    "RunConfig",
    "TaskRunConfig",
    "TaskTrainingConfig",
    "TextRunConfig",
    "TextTrainingConfig",
    "TrainingConfig",
    "decode_config",
    "load_config",
    "load_model",
    "start",
    "train",
]
