"""Atomic checkpoints of weights, optimizer, random state and progress, as safetensors and JSON.

A checkpoint is written to a temporary directory, flushed to the disk and renamed: it is complete or absent. Its
manifest holds the size and SHA-256 of every file, so that damage is detected before anything is loaded.
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
    random: dict[str, Tensor],
    *,
    keep: int,
    config: RunConfig,
    progress: dict[str, Any],
) -> Path:
    """Writes the checkpoint of a step, then deletes all but the last `keep` and the best.

    Args:
        directory: the run's checkpoints/.
        step: steps done so far.
        model: its parameters are saved.
        optimizer: its state per parameter is saved; learning rates and the like come from the config.
        random: the random state of the training, of any names that begin with "random".
        keep: how many of the latest checkpoints to keep.
        config: the config of the training so far; on resuming, an edited config.yaml is detected by it.
        progress: plain data to resume with, the state of the stream included.

    Returns:
        The checkpoint's directory.

    Raises:
        CheckpointError: it cannot be written; the existing checkpoints are unchanged.
    """
    target = directory / f"step-{step:08d}"
    temporary = directory / f".{target.name}.part"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}, temporary / WEIGHTS)
        state = {name: value.cpu() for name, value in _optimizer_tensors(model, optimizer).items()}
        save_file({**state, **random}, temporary / OPTIMIZER)
        write_json(temporary / STATE, {"step": step, "config": encode(config, CHOICES), "progress": progress})
        write_json(
            temporary / MANIFEST, {name: _size_and_hash(temporary / name) for name in (WEIGHTS, OPTIMIZER, STATE)}
        )
        _publish(temporary, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        existing = list_checkpoints(directory)
        intact = f"; {existing[-1]} is intact" if existing else ""
        raise CheckpointError(f"run: cannot write the checkpoint of step {step}: {reason}{intact}") from error
    _prune(directory, keep)
    return target


def _publish(temporary: Path, target: Path) -> None:
    """Flushes a finished checkpoint to the disk, then renames it: a crash leaves the old checkpoint or the new one."""
    for file in temporary.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    sync_directory(temporary)
    if target.exists():  # a step repeated after resuming from an earlier checkpoint
        shutil.rmtree(target)
    os.replace(temporary, target)
    sync_directory(target.parent)


def _prune(directory: Path, keep: int) -> None:
    """Deletes all checkpoints but the last `keep` and the best."""
    best = read_best(directory)
    for old in list_checkpoints(directory)[:-keep]:
        if best is None or step_of(old) != best.step:
            shutil.rmtree(old)


def mark_best(directory: Path, best: Best) -> None:
    """Records in best.json which checkpoint is the best."""
    write_json(directory / BEST, {"step": best.step, "nats_per_token": best.nats_per_token})


def read_best(directory: Path) -> Best | None:
    """The best checkpoint so far; None if best.json is missing or unreadable."""
    try:
        data = json.loads((directory / BEST).read_text(encoding="utf-8"))
        return Best(int(data["step"]), float(data["nats_per_token"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def list_checkpoints(directory: Path) -> list[Path]:
    """The complete checkpoints in ascending order of steps; their contents are not verified."""
    if not directory.is_dir():
        return []
    named = (path for path in directory.iterdir() if re.fullmatch("step-[0-9]+", path.name))
    return sorted((path for path in named if path.is_dir()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The steps done when a checkpoint was written, from its name."""
    return int(checkpoint.name.removeprefix("step-"))


def find_checkpoint(directory: Path, which: str = "latest") -> tuple[Path, list[str]]:
    """The verified checkpoint to use, and a sentence for every newer damaged one that was skipped.

    Args:
        directory: a run's checkpoints/.
        which: "latest" for the newest that is undamaged; "best" or a step for that one only.

    Raises:
        CheckpointError: there is no undamaged checkpoint, or the requested one is missing or damaged.
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
    """The checkpoint of `find_checkpoint`; warns of every damaged one that was skipped."""
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
            found = _size_and_hash(checkpoint / name)
        except OSError as error:
            raise CheckpointError(f"run: cannot read {checkpoint / name}: {error.strerror}") from error
        if found["bytes"] != size:
            raise CheckpointError(f"run: {checkpoint / name} must have {size} bytes, got {found['bytes']}")
        if found["sha256"] != sha256:
            raise CheckpointError(f"run: {checkpoint / name} must have SHA-256 {sha256}, got {found['sha256']}")


def _size_and_hash(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def weights_hash(checkpoint: Path) -> str:
    """The SHA-256 of a verified checkpoint's weights, which identifies the model."""
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
    """Copies a verified checkpoint's weights into `model`. Raises CheckpointError if they do not fit."""
    fill(dict(model.named_parameters()), read_tensors(checkpoint / WEIGHTS), checkpoint / WEIGHTS)


def load_training(checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Restores weights and optimizer from a verified checkpoint; returns the random state of the training."""
    load_weights(checkpoint, model)
    tensors = read_tensors(checkpoint / OPTIMIZER)
    random = {name: tensors.pop(name) for name in list(tensors) if name.startswith("random") and "/" not in name}
    if not tensors:  # a finished model whose codebooks were made after training: its parameters were never optimized
        return random
    for parameter in model.parameters():  # AdamW makes them in its first step: make them here, to be filled below
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    fill(_optimizer_tensors(model, optimizer), tensors, checkpoint / OPTIMIZER)
    return random


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as "parameter/key" -> tensor; keyed by name, since parameters differ between processes."""
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
    """Copies every value into the target of the same name, in place.

    Raises CheckpointError, naming `path`, unless names, shapes and dtypes are equal.
    """
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
