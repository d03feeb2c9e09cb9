"""Checkpoints of safetensors and JSON that are complete or not there: weights, optimizer, random state and step.

A checkpoint is written to a temporary directory, flushed to the disk and renamed. Its manifest has the size and SHA-256
of every file, so that damage is found and named before anything is read.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from matrixstate.configs import encode
from matrixstate.errors import CheckpointError, ConfigError, MatrixStateWarning
from matrixstate.training.config import CHOICES, RunConfig
from matrixstate.training.reading import decode_config
from matrixstate.training.run import sync_directory, write_json

WEIGHTS, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
BEST = "best.json"


@dataclass(frozen=True)
class Best:
    """The checkpoint with the lowest validation loss so far."""

    step: int
    nats_per_token: float


def save_checkpoint(
    directory: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    random: Tensor,
    *,
    keep: int,
    config: RunConfig,
    progress: dict[str, Any],
) -> Path:
    """Writes the checkpoint of a step, then deletes all but the last `keep` and the best.

    Args:
        directory: of the run's checkpoints.
        step: steps done so far.
        random: the random state of the training.
        config: what it was trained with; an edited config.yaml is detected by it when the run resumes.
        progress: plain data that the training resumes with, the state of its stream among them.

    Raises CheckpointError if it cannot be written; the checkpoints there are then as they were.
    """
    target = directory / f"step-{step:08d}"
    part = directory / f".{target.name}.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file({name: p.detach().contiguous() for name, p in model.named_parameters()}, part / WEIGHTS)
        save_file({**_optimizer_tensors(model, optimizer), "random": random}, part / OPTIMIZER)
        write_json(part / STATE, {"step": step, "config": encode(config, CHOICES), "progress": progress})
        write_json(part / MANIFEST, {name: _measure(part / name) for name in (WEIGHTS, OPTIMIZER, STATE)})
        _publish(part, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        left = list_checkpoints(directory)
        remains = f"; {left[-1]} is intact" if left else ""
        raise CheckpointError(f"run: cannot write the checkpoint of step {step}: {reason}{remains}") from error
    _prune(directory, keep)
    return target


def _publish(part: Path, target: Path) -> None:
    """Flushes every file of `part` and gives it its name; a crash leaves the old checkpoint or the new one."""
    for file in part.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    sync_directory(part)
    if target.exists():  # a step that was repeated after resuming from an earlier one
        shutil.rmtree(target)
    os.replace(part, target)
    sync_directory(target.parent)


def _prune(directory: Path, keep: int) -> None:
    best = read_best(directory)
    for old in list_checkpoints(directory)[:-keep]:
        if best is None or step_of(old) != best.step:
            shutil.rmtree(old)


def mark_best(directory: Path, best: Best) -> None:
    """Records which checkpoint is the best."""
    write_json(directory / BEST, {"step": best.step, "nats_per_token": best.nats_per_token})


def read_best(directory: Path) -> Best | None:
    """The best checkpoint so far; None if there is none or its note is unreadable."""
    try:
        data = json.loads((directory / BEST).read_text(encoding="utf-8"))
        return Best(int(data["step"]), float(data["nats_per_token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def list_checkpoints(directory: Path) -> list[Path]:
    """Checkpoints that were written to their end, the latest last."""
    if not directory.is_dir():
        return []
    named = (path for path in directory.iterdir() if re.fullmatch("step-[0-9]+", path.name))
    return sorted((path for path in named if path.is_dir()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """How many steps were done when a checkpoint was written."""
    return int(checkpoint.name.removeprefix("step-"))


def find_checkpoint(directory: Path, which: str = "latest") -> tuple[Path, list[str]]:
    """The checkpoint to use, and a sentence for every damaged one that was passed over.

    Args:
        directory: a run's checkpoints.
        which: "latest" takes the newest that is undamaged; "best" or a step takes that one or fails.

    Raises:
        CheckpointError: there is none, or the one asked for is missing or damaged.
    """
    found = list_checkpoints(directory)
    if which != "latest":
        best = read_best(directory)
        if which == "best" and best is None:
            raise CheckpointError(f"run: expected a best checkpoint in {directory}, got none yet")
        wanted = str(best.step) if which == "best" and best else which.lstrip("0") or "0"
        named = [path for path in found if str(step_of(path)) == wanted]
        if not named:
            known = ", ".join(str(step_of(path)) for path in found) or "none"
            raise CheckpointError(f"run: expected checkpoint latest, best or a step of {known}, got {which!r}")
        verify(named[0])
        return named[0], []
    damages = []
    for checkpoint in reversed(found):
        try:
            verify(checkpoint)
        except CheckpointError as error:
            damages.append(str(error))
        else:
            return checkpoint, damages
    raise CheckpointError("; ".join([f"run: expected a checkpoint in {directory}, got none", *damages]))


def choose_checkpoint(directory: Path, which: str = "latest") -> Path:
    """As `find_checkpoint`, with a warning for every damaged checkpoint that was passed over."""
    checkpoint, damages = find_checkpoint(directory, which)
    for damage in damages:
        warnings.warn(f"{damage}; using {checkpoint.name}", MatrixStateWarning, stacklevel=2)
    return checkpoint


def verify(checkpoint: Path) -> None:
    """Raises CheckpointError unless every file has the size and hash of the manifest."""
    path = checkpoint / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        expected = {name: (manifest[name]["bytes"], manifest[name]["sha256"]) for name in (WEIGHTS, OPTIMIZER, STATE)}
    except OSError as error:
        raise CheckpointError(f"run: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"run: {path} is damaged: {type(error).__name__}: {error}") from error
    for name, (size, sha256) in expected.items():
        try:
            found = _measure(checkpoint / name)
        except OSError as error:
            raise CheckpointError(f"run: cannot read {checkpoint / name}: {error.strerror}") from error
        if found["bytes"] != size:
            raise CheckpointError(f"run: {checkpoint / name} must have {size} bytes, got {found['bytes']}")
        if found["sha256"] != sha256:
            raise CheckpointError(f"run: {checkpoint / name} must have SHA-256 {sha256}, got {found['sha256']}")


def _measure(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def weights_hash(checkpoint: Path) -> str:
    """The SHA-256 of a verified checkpoint's weights: what tells one model from another."""
    return json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))[WEIGHTS]["sha256"]


def trained_config(checkpoint: Path) -> RunConfig | None:
    """The config that a verified checkpoint was trained with; None for one written before configs were saved."""
    data = _read_state(checkpoint).get("config")
    try:
        return None if data is None else decode_config(data)
    except ConfigError as error:
        raise CheckpointError(f"run: {checkpoint / STATE} is damaged: {error}") from error


def saved_progress(checkpoint: Path) -> dict[str, Any]:
    """The `progress` that a verified checkpoint was saved with; empty for one written before progress was saved."""
    return _read_state(checkpoint).get("progress") or {}


def _read_state(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / STATE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError(f"expected an object, got {type(data).__name__}")
        return data
    except (OSError, ValueError) as error:
        raise CheckpointError(f"run: {path} is damaged: {error}") from error


def load_weights(checkpoint: Path, model: nn.Module) -> None:
    """Puts a verified checkpoint's weights into `model`. Raises CheckpointError if they do not fit."""
    fill(dict(model.named_parameters()), read_tensors(checkpoint / WEIGHTS), checkpoint / WEIGHTS)


def load_training(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """Restores weights and optimizer as they were when the checkpoint was written; returns the random state."""
    load_weights(checkpoint, model)
    tensors = read_tensors(checkpoint / OPTIMIZER)
    random = tensors.pop("random")
    if not tensors:  # of a finished model that is not the one that was trained
        return random
    for parameter in model.parameters():  # states exist from the first step on
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    fill(_optimizer_tensors(model, optimizer), tensors, checkpoint / OPTIMIZER)
    return random


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises CheckpointError if it is missing or damaged."""
    try:
        return load_file(path)
    except OSError as error:
        raise CheckpointError(f"run: cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(f"run: {path} is damaged: {error}") from error


@torch.no_grad()
def fill(targets: dict[str, Tensor], values: dict[str, Tensor], path: Path) -> None:
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
