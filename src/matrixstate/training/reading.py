"""Configs of runs from YAML files and plain data: on a text, or on a task where `data` names one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matrixstate.configs import decode, load_yaml, override
from matrixstate.errors import ConfigError
from matrixstate.training.config import CHOICES, RunConfig
from matrixstate.training.task_config import TaskRunConfig
from matrixstate.training.text_config import TextRunConfig


def decode_config(data: Any) -> RunConfig:
    """The run that plain data describe. Raises ConfigError with every mistake."""
    if not isinstance(data, dict):
        raise ConfigError(f"config: expected a mapping of options, got {type(data).__name__}")
    if "task" in data:
        raise ConfigError("task: expected under data, as in data: {kind: parity}")
    return decode(TaskRunConfig if names_task(data.get("data")) else TextRunConfig, data, CHOICES)


def names_task(data: Any) -> bool:
    """Whether the plain data of a `DataConfig` or `TaskConfig` are of the latter, which has a kind."""
    return isinstance(data, str) or (isinstance(data, dict) and "kind" in data)


def load_config(path: Path, assignments: Iterable[str] = ()) -> RunConfig:
    """The run that a YAML file describes, with "a.b=value" overrides. Raises ConfigError with every mistake."""
    data: dict[str, Any] = override(load_yaml(path), assignments)
    data.setdefault("name", path.stem)
    return decode_config(data)
