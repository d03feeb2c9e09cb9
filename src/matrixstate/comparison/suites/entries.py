"""The entries of a suite, the budget they share, and the number in each model that is varied to meet it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from matrixstate.configs import decode, encode, flatten, override
from matrixstate.errors import require
from matrixstate.models import ModelConfig
from matrixstate.training import CHOICES, TaskTrainingConfig, TextTrainingConfig

HIDDEN = "blocks.*.mlp.hidden"
"""Varied to match parameters, unless the entry names another option."""


@dataclass(frozen=True)
class MatchConfig:
    """The budget of every entry; the sizes that meet it are searched for."""

    by: Literal["parameters", "state_bytes", "flops", "wall_time"] = "parameters"
    """parameters: all of them. state_bytes: of one sequence of the training length. flops: of the whole training,
    forward and backward. wall_time: seconds of training with one thread, estimated from a few steps beforehand."""
    value: float | None = None
    """The budget. Default: that of the control as configured."""
    tolerance: float = 0.02
    """The largest relative deviation from the budget."""

    def __post_init__(self) -> None:
        require(
            (self.value is None or 0 < self.value < math.inf, f"value: expected a positive number, got {self.value}"),
            (0 < self.tolerance < 1, f"tolerance: expected a share between 0 and 1, got {self.tolerance}"),
        )


@dataclass(frozen=True, kw_only=True)
class EntryConfig:
    """One architecture."""

    name: str
    """Identifies its directory and rows: letters, digits, '-', '_' and '.'."""
    label: str | None = None
    """Shown in figures and tables. Default: the name."""
    model: ModelConfig
    vary: str | None = None
    """The integer option of the model that is varied to meet the budget, as in blocks.0.mixer.heads; `*` matches every
    block. Default: the hidden size of every MLP for parameters; the steps for flops and wall_time."""

    training: Any

    @property
    def title(self) -> str:
        return self.label or self.name


@dataclass(frozen=True, kw_only=True)
class TextEntry(EntryConfig):
    """One architecture and its training on a text."""

    training: TextTrainingConfig = field(default_factory=TextTrainingConfig)


@dataclass(frozen=True, kw_only=True)
class TaskEntry(EntryConfig):
    """One architecture and its training on a task."""

    training: TaskTrainingConfig = field(default_factory=TaskTrainingConfig)


def _is_integer_option(value: Any) -> bool:
    """Whether it is an integer, or None: an option whose default is computed."""
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def varied_path(budget: MatchConfig | None, entry: EntryConfig) -> str | None:
    """The path of the integer option that matching varies in the entry's model; None if it varies none."""
    if budget is None or budget.by in ("flops", "wall_time"):
        return None
    has_mlp = any(block.mlp is not None and hasattr(block.mlp, "hidden") for block in entry.model.blocks)
    return entry.vary or (HIDDEN if budget.by == "parameters" and has_mlp else None)


def integer_options(model: ModelConfig) -> list[str]:
    """The paths of all options of a model that `vary` may name."""
    return sorted(key for key, value in flatten(encode(model, CHOICES)).items() if _is_integer_option(value))


def expand_path(data: Any, path: str) -> Iterable[tuple[str, ...]]:
    """The keys of every integer option in plain data that matches `path`, in which `*` matches any key."""
    key, _, rest = path.partition(".")
    items = dict(enumerate(data)) if isinstance(data, list) else data if isinstance(data, dict) else {}
    for name, value in items.items():
        if key not in ("*", str(name)):
            continue
        if rest:
            yield from ((str(name), *below) for below in expand_path(value, rest))
        elif _is_integer_option(value):
            yield (str(name),)


def with_option(model: ModelConfig, path: str, number: int) -> ModelConfig:
    """The model with `number` at every option that matches `path`. Raises ConfigError if it is not valid there."""
    data = encode(model, CHOICES)
    data = override(data, [f"{'.'.join(keys)}={number}" for keys in expand_path(data, path)])
    return decode(ModelConfig, data, CHOICES)
