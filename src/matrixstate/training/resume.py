"""What a training resumes with besides weights and optimizer, and models loaded from checkpoints."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from matrixstate.devices import CPU
from matrixstate.errors import CheckpointError
from matrixstate.models import LanguageModel, ModelConfig
from matrixstate.training.checkpoint import choose_checkpoint, load_weights, read_best, save_checkpoint, saved_progress
from matrixstate.training.config import RunConfig
from matrixstate.training.run import Run
from matrixstate.training.runtime import RandomState


@dataclass
class Progress:
    """How far a training has come, summed over all its sessions."""

    step: int = 0
    """Optimizer steps done, skipped ones included."""
    tokens: int = 0
    """Tokens trained on."""
    seconds: float = 0.0
    """Wall time of the steps, without evaluations."""
    cpu_seconds: float = 0.0
    """CPU time of the steps, over all threads of the process."""
    finished: bool = False
    """Whether `Stream.finish` has made the final model."""

    def data(self) -> dict[str, Any]:
        """Plain data for a checkpoint, without the step, which is in its name."""
        return {key: value for key, value in vars(self).items() if key != "step"}


def save_progress(
    run: Run,
    progress: Progress,
    stream: dict[str, Any],
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    random: RandomState,
) -> None:
    """Writes a checkpoint of the current step; `stream` is the state of the run's data stream."""
    save_checkpoint(
        run.checkpoints, progress.step, model, optimizer, random, keep=run.config.training.keep, config=run.config,
        progress={**progress.data(), "stream": stream},
    )  # fmt: skip


def read_progress(checkpoint: Path, step: int) -> tuple[Progress, dict[str, Any]]:
    """The progress in a verified checkpoint of `step` steps, and the state of the data stream."""
    data = saved_progress(checkpoint)
    stream = data.pop("stream", {})
    try:
        return Progress(step, **data), stream
    except TypeError as error:
        raise CheckpointError(f"run: {checkpoint} is damaged: {error}") from error


def best_loss(run: Run, step: int) -> float:
    """The lowest validation loss up to a step; infinite if there was no evaluation yet."""
    best = read_best(run.checkpoints)
    return math.inf if best is None or best.step > step else best.nats_per_token


def load_model(run: Run, which: str = "latest", device: torch.device = CPU) -> LanguageModel:
    """The run's model with the weights of a checkpoint ("latest", "best" or a step), in evaluation mode on a device."""
    checkpoint = choose_checkpoint(run.checkpoints, which)
    model = LanguageModel(saved_model(run.config, checkpoint))
    load_weights(checkpoint, model)
    return model.to(device).eval()


def saved_model(config: RunConfig, checkpoint: Path) -> ModelConfig:
    """The config of the model whose weights a verified checkpoint holds."""
    return config.final_model() if saved_progress(checkpoint).get("finished") else config.initial_model()
