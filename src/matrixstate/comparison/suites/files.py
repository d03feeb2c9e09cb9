"""Suites from YAML files and plain data, and back to plain data."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matrixstate.comparison.suites.suite import SuiteConfig, TaskSuite, TextSuite
from matrixstate.configs import decode, encode, load_yaml, override
from matrixstate.errors import ConfigError
from matrixstate.training import CHOICES, TaskTrainingConfig, TextTrainingConfig
from matrixstate.training.reading import names_task


def load_suite(path: Path, assignments: Iterable[str] = (), files: Iterable[Path] = ()) -> SuiteConfig:
    """The suite in a YAML file, with "a.b=value" overrides and other text files.

    Raises ConfigError with all mistakes at once.
    """
    data = load_yaml(path)
    data.setdefault("name", path.stem)
    return make_suite(data, assignments, files)


def make_suite(data: dict[str, Any], assignments: Iterable[str] = (), files: Iterable[Path] = ()) -> SuiteConfig:
    """The suite in plain data. Options under `training` apply to every entry that does not set them itself.

    Raises ConfigError with all mistakes at once.
    """
    data = override(data, assignments)
    names = [str(file.absolute()) for file in files]
    of_task = names_task(data.get("data"))
    if names and of_task:
        raise ConfigError("--text: expected none for a task")
    if names:
        data = {**data, "data": with_files(data.get("data"), names)}
    common = {} if data.get("training") is None else data["training"]
    if not isinstance(common, dict):
        raise ConfigError(f"training: expected a mapping of options, got {common!r}")
    try:
        return decode(TaskSuite if of_task else TextSuite, _spread_training(data, common), CHOICES)
    except ConfigError as error:
        kind = TaskTrainingConfig if of_task else TextTrainingConfig
        raise ConfigError(_merge_problems(error.problems, kind, common)) from error


def with_files(data: Any, files: Sequence[str]) -> dict[str, Any]:
    """The options `data` of a text with other files. Raises ConfigError if they are not a mapping."""
    if not (data is None or isinstance(data, dict)):
        raise ConfigError(f"data: expected a mapping of options, got {data!r}")
    return {**(data or {}), "files": list(files)}


def _spread_training(data: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """The data with the common training options in every entry, beneath its own; malformed entries are left as is."""
    rest = {key: value for key, value in data.items() if key != "training"}
    if not isinstance(rest.get("models"), list):
        return rest

    def spread(entry: Any) -> Any:
        own = entry.get("training", {}) if isinstance(entry, dict) else None
        return {**entry, "training": {**common, **own}} if isinstance(own, dict) else entry

    return {**rest, "models": [spread(entry) for entry in rest["models"]]}


def _merge_problems(problems: Iterable[str], kind: type, common: Any) -> list[str]:
    """The problems, with those of the common training options once instead of once per entry."""
    # the same problem has every entry's path in front; decoding the common options alone shows which these are
    try:
        decode(kind, common, CHOICES)
        shared: tuple[str, ...] = ()
    except ConfigError as error:
        shared = error.problems
    own = [p for p in problems if not any(re.fullmatch(rf"models\.\d+\.training\.{re.escape(s)}", p) for s in shared)]
    return [*own, *(f"training.{problem}" for problem in shared)]


def as_data(suite: SuiteConfig) -> dict[str, Any]:
    """Plain data from which `make_suite` makes an equal suite."""
    return encode(suite, CHOICES)


def with_seeds(suite: SuiteConfig, seeds: int | None) -> SuiteConfig:
    """The same suite with another number of seeds."""
    return suite if seeds is None else dataclasses.replace(suite, seeds=seeds)
