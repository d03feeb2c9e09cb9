"""Checkpoints of safetensors and JSON: weights, optimizer, random state and step."""

import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from matrixstate.errors import CheckpointError
from matrixstate.training.run import write_json

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save_checkpoint(directory: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, keep: int) -> Path:
    """Writes the checkpoint of `step` (steps done so far) beside the others and drops all but the last `keep`.

    The files are written to a temporary directory that is renamed when complete.
    """
    target = directory / f"step-{step:08d}"
    part = directory / f".{target.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, part / WEIGHTS)
    save_file({**_optimizer_tensors(model, optimizer), "random": torch.get_rng_state()}, part / OPTIMIZER)
    write_json(part / STATE, {"step": step})
    for file in part.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(target, ignore_errors=True)
    os.replace(part, target)
    for old in list_checkpoints(directory)[:-keep]:
        shutil.rmtree(old)
    return target


def list_checkpoints(directory: Path) -> list[Path]:
    """Complete checkpoints, the latest last."""
    return sorted(path for path in directory.glob("step-*") if path.is_dir()) if directory.is_dir() else []


def latest_checkpoint(directory: Path) -> Path:
    """The latest complete checkpoint. Raises CheckpointError if there is none."""
    found = list_checkpoints(directory)
    if not found:
        raise CheckpointError(f"run: expected a checkpoint in {directory}, got none")
    return found[-1]


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Puts a checkpoint's weights into `model`. Raises CheckpointError if they are damaged or do not fit."""
    _fill(dict(model.named_parameters()), _read(checkpoint / WEIGHTS), checkpoint / WEIGHTS)


def load_training(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Puts everything back as it was when the checkpoint was written; returns the number of steps done."""
    load_weights(checkpoint, model)
    tensors = _read(checkpoint / OPTIMIZER)
    try:
        random = tensors.pop("random")
        step = int(json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["step"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"run: {checkpoint} is damaged: {type(error).__name__}: {error}") from error
    for parameter in model.parameters():  # states exist from the first step on
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    _fill(_optimizer_tensors(model, optimizer), tensors, checkpoint / OPTIMIZER)
    torch.set_rng_state(random)
    return step


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"run: cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"run: {path} is damaged: {error}") from error


@torch.no_grad()
def _fill(targets: dict[str, Tensor], values: dict[str, Tensor], path: Path) -> None:
    """Copies every value into the target of its name; names, shapes and dtypes must be equal."""
    if targets.keys() != values.keys():
        odd = sorted(targets.keys() ^ values.keys())[0]
        raise CheckpointError(f"run: {path} does not fit the model: {odd} is only in one of them")
    for name, target in targets.items():
        value = values[name]
        if value.shape != target.shape or value.dtype != target.dtype:
            raise CheckpointError(
                f"run: {path} does not fit the model: {name} must be {target.dtype} {list(target.shape)}, "
                f"got {value.dtype} {list(value.shape)}"
            )
        target.copy_(value)
