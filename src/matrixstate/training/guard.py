"""The failure bundle: what is saved of a step whose loss or gradient is not finite, for `autopsy` to replay."""

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from matrixstate.data import Batch
from matrixstate.models import LanguageModel
from matrixstate.training.run import Run, write_json
from matrixstate.training.runtime import RandomState

BATCH, WEIGHTS, REPORT = "batch.safetensors", "model.safetensors", "report.json"


def write_bundle(
    run: Run, step: int, model: LanguageModel, batch: Batch, random: RandomState, loss: float, norm: float
) -> Path:
    """Writes failures/step-N of the run: the batch, the weights before the step, and statistics of every parameter.

    Args:
        run: the run in training.
        step: counted from 1.
        model: its parameters hold the weights and the gradients of the step.
        batch: of the step.
        random: the random state before the step, with which dropout is replayed.
        loss: of the step.
        norm: of its gradient, before clipping.

    Returns:
        The bundle's directory.
    """
    directory = run.directory / "failures" / f"step-{step:08d}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in batch._asdict().items() if tensor is not None}
    save_file({**tensors, **random}, directory / BATCH)
    save_file({name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}, directory / WEIGHTS)
    parameters = {name: _statistics(p) for name, p in model.named_parameters()}
    write_json(
        directory / REPORT,
        {"step": step, "loss": _plain(loss), "gradient_norm": _plain(norm), "parameters": parameters},
    )
    shutil.copyfile(run.directory / "config.yaml", directory / "config.yaml")
    return directory


def _statistics(parameter: torch.nn.Parameter) -> dict[str, Any]:
    weight, gradient = parameter.detach(), parameter.grad
    found: dict[str, Any] = {"norm": _plain(float(weight.norm())), "not_finite": int((~weight.isfinite()).sum())}
    if gradient is not None:
        found["gradient_norm"] = _plain(float(gradient.norm()))
        found["gradient_not_finite"] = int((~gradient.isfinite()).sum())
    return found


def _plain(value: float) -> float | str:
    """A number as JSON can hold it, which has no inf and nan."""
    return value if math.isfinite(value) else str(value)
