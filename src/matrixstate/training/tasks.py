"""Models of runs on tasks: loading them, and adding error correction after training."""

import dataclasses
import shutil
from pathlib import Path

import torch

from matrixstate.devices import CPU
from matrixstate.models import LanguageModel
from matrixstate.training.checkpoint import choose_checkpoint, step_of
from matrixstate.training.correction import find_codes, with_codebooks, with_correction
from matrixstate.training.optimizer import make_optimizer
from matrixstate.training.resume import load_model, read_progress, save_progress
from matrixstate.training.run import Run
from matrixstate.training.runtime import Runtime
from matrixstate.training.task_config import TaskRunConfig


def load_task_model(directory: Path, device: torch.device = CPU) -> tuple[LanguageModel, TaskRunConfig]:
    """The trained model of a run on a task, in evaluation mode on a device, and the run's config."""
    run = Run.open_task(directory)
    return load_model(run, device=device), run.config


def correct_run(
    run: Path,
    directory: Path,
    every: int,
    codes: int | None = None,
    sharpness: float = 16.0,
    device: torch.device = CPU,
) -> tuple[LanguageModel, TaskRunConfig]:
    """Adds error correction to the trained model of a run on a task, and writes the result as a new run.

    The result equals that of training with the option `codebooks`.

    Args:
        run: a run of a model with uncorrected MRUs.
        directory: of the new run, with the metrics of the old one; must be new or empty.
        every: steps from one correction to the next.
        codes: the number of clusters of states; None for the mean state of every answer. See `find_codes`.
        sharpness: `MRUConfig.sharpness`.
        device: where the model runs.

    Returns:
        The corrected model, in evaluation mode, and the new run's config.

    Raises:
        ConfigError: no MRU that can be corrected, or a directory that has files in it or cannot be written.
    """
    model, config = load_task_model(run, device)
    made = find_codes(model, config.data, config.training.length, codes, config.seed)
    corrected_model = with_correction(config.model, every, len(next(iter(made.values()))), sharpness)
    training = dataclasses.replace(config.training, codebooks="answers" if codes is None else "clusters")
    config = dataclasses.replace(config, model=corrected_model, training=training)
    model = with_codebooks(model, config.final_model(), made).to(device)
    corrected = Run.create(directory, config)
    shutil.copyfile(run / "metrics.jsonl", directory / "metrics.jsonl")
    checkpoint = choose_checkpoint(run / "checkpoints")
    progress, stream = read_progress(checkpoint, step_of(checkpoint))
    progress.finished = True
    optimizer, random = make_optimizer(model, config.training), Runtime("float32").random_state
    save_progress(corrected, progress, stream, model, optimizer, random)
    corrected.set_status("done", step=progress.step)
    return model, config
