"""Models of runs on tasks: loaded, and corrected after training."""

import dataclasses
import shutil
from pathlib import Path

import torch

from matrixstate.models import LanguageModel
from matrixstate.training.correction import find_codes, with_codebooks, with_correction
from matrixstate.training.optimizer import make_optimizer
from matrixstate.training.resume import Progress, load_model, save_progress
from matrixstate.training.run import Run
from matrixstate.training.task_config import TaskRunConfig


def load_task_model(directory: Path) -> tuple[LanguageModel, TaskRunConfig]:
    """The trained model of a task's run, in evaluation mode, and its config."""
    run = Run.open_task(directory)
    return load_model(run), run.config


def correct_run(
    run: Path, directory: Path, every: int, codes: int | None = None, sharpness: float = 16.0
) -> tuple[LanguageModel, TaskRunConfig]:
    """The trained model of a task's run with error correction: what training with `codebooks` would have given.

    Args:
        run: of a model with uncorrected MRUs.
        directory: new or empty; holds the corrected model's run then, with the log of its training.
        every: steps from one correction to the next.
        codes: as in `find_codes`: so many clusters of states; None for the mean state of every answer.
        sharpness: `MRUConfig.sharpness`.

    Raises:
        ConfigError: an MRU that cannot be corrected, or a directory that holds files or cannot be made.
    """
    model, config = load_task_model(run)
    found = find_codes(model, config.data, config.training.length, codes, config.seed)
    sizes = with_correction(config.model, every, len(next(iter(found.values()))), sharpness)
    training = dataclasses.replace(config.training, codebooks="answers" if codes is None else "clusters")
    config = dataclasses.replace(config, model=sizes, training=training)
    model = with_codebooks(model, config.final_model(), found)
    corrected = Run.create(directory, config)
    shutil.copyfile(run / "metrics.jsonl", directory / "metrics.jsonl")
    steps, random = config.training.steps, torch.get_rng_state()
    optimizer = make_optimizer(model, config.training)
    save_progress(corrected, Progress(steps, finished=True), {}, model, optimizer, random)
    corrected.finish("done", step=steps)
    return model, config
