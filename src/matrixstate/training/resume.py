"""What a training resumes with, beside weights and optimizer."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from matrixstate.errors import CheckpointError
from matrixstate.models import LanguageModel
from matrixstate.training.checkpoint import choose_checkpoint, load_weights, read_best, save_checkpoint, saved_progress
from matrixstate.training.config import RunConfig
from matrixstate.training.run import Run


@dataclass
class Progress:
    """How far a training has come, over all its sessions."""

    step: int = 0
    """Steps done."""
    tokens: int = 0
    """Trained on."""
    seconds: float = 0.0
    """Wall time of the steps, without evaluations."""
    cpu_seconds: float = 0.0
    """CPU time of this process, of the steps."""
    finished: bool = False
    """Whether the model is the one that the run holds in the end."""

    def data(self) -> dict[str, Any]:
        """Plain data, for a checkpoint; the step stands in its name."""
        return {key: value for key, value in vars(self).items() if key != "step"}


def save_progress(
    run: Run, progress: Progress, stream: dict[str, Any], model: LanguageModel, optimizer: Any, random: torch.Tensor
) -> None:
    """Writes the checkpoint of the present step; `stream` is the state of the run's stream."""
    save_checkpoint(
        run.checkpoints, progress.step, model, optimizer, random, keep=run.config.training.keep, config=run.config,
        progress={**progress.data(), "stream": stream},
    )  # fmt: skip


def read_progress(checkpoint: Path, step: int) -> tuple[Progress, dict[str, Any]]:
    """The progress and the state of the stream in a verified checkpoint."""
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


def load_model(run: Run, which: str = "latest") -> LanguageModel:
    """The run's model with the weights of a checkpoint ("latest", "best" or a step), in evaluation mode."""
    checkpoint = choose_checkpoint(run.checkpoints, which)
    model = LanguageModel(saved_model(run.config, checkpoint))
    load_weights(checkpoint, model)
    return model.eval()


def saved_model(config: RunConfig, checkpoint: Path):
    """The config of the model whose weights a verified checkpoint holds."""
    return config.final_model() if saved_progress(checkpoint).get("finished") else config.initial_model()
