"""Reads the configs of runs from YAML files and plain data."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matrixstate.configs import decode, load_yaml, override
from matrixstate.errors import ConfigError
from matrixstate.training.config import CHOICES, RunConfig
from matrixstate.training.task_config import TaskRunConfig
from matrixstate.training.text_config import TextRunConfig


def decode_config(data: Any) -> RunConfig:
    """The config of a run from plain data: a `TaskRunConfig` if `data` names a task, else a `TextRunConfig`.

    Raises ConfigError with every mistake.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"config: expected a mapping of options, got {type(data).__name__}")
    if "task" in data:  # as in an older format
        raise ConfigError("task: expected under data, as in data: {kind: parity}")
    return decode(TaskRunConfig if names_task(data.get("data")) else TextRunConfig, data, CHOICES)


def names_task(data: Any) -> bool:
    """Whether the option `data` describes a task: a name or a mapping with a kind, which a text does not have."""
    return isinstance(data, str) or (isinstance(data, dict) and "kind" in data)


def load_config(path: Path, assignments: Iterable[str] = ()) -> RunConfig:
    """The config of a run from a YAML file, with "a.b=value" overrides; named after the file unless it has a name.

    Raises ConfigError with every mistake.
    """
    data: dict[str, Any] = override(load_yaml(path), assignments)
    data.setdefault("name", path.stem)
    return decode_config(data)
