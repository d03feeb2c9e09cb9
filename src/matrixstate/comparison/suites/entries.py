"""The architectures of a suite, the budget they get, and the number in each that may change to meet it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from matrixstate.configs import decode, encode, flatten, override
from matrixstate.errors import require
from matrixstate.models import ModelConfig
from matrixstate.training import TrainingConfig
from matrixstate.training.tasks import TASK_CHOICES, TaskTrainingConfig

HIDDEN = "blocks.*.mlp.hidden"
"""What is varied to match parameters where an entry does not say."""


@dataclass(frozen=True)
class MatchConfig:
    """The budget that all entries get; the program finds the sizes that meet it."""

    by: Literal["parameters", "state_bytes", "flops", "wall_time"] = "parameters"
    """parameters: all of them. state_bytes: of one sequence of the training length. flops: of the whole training,
    forward and backward. wall_time: seconds of training at one thread, judged by a few steps tried beforehand."""
    value: float | None = None
    """How much of it. Default: what the control has, unchanged."""
    tolerance: float = 0.02
    """By what share of the value an entry may miss it."""

    def __post_init__(self) -> None:
        require(
            (self.value is None or 0 < self.value < math.inf, f"value: expected a positive number, got {self.value}"),
            (0 < self.tolerance < 1, f"tolerance: expected a share between 0 and 1, got {self.tolerance}"),
        )


@dataclass(frozen=True, kw_only=True)
class EntryConfig:
    """One architecture."""

    name: str
    """Names its directory and its rows: letters, digits, '-', '_' and '.'."""
    label: str | None = None
    """What figures and tables call it. Default: the name."""
    model: ModelConfig
    vary: str | None = None
    """The whole number of the model that may change to meet the budget, as in blocks.0.mixer.heads; `*` stands for
    every block. Default: the hidden size of every MLP for parameters; the steps for flops and wall_time."""

    training: Any

    @property
    def title(self) -> str:
        return self.label or self.name


@dataclass(frozen=True, kw_only=True)
class TextEntry(EntryConfig):
    """One architecture, and how it is trained on the text."""

    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True, kw_only=True)
class TaskEntry(EntryConfig):
    """One architecture, and how it is trained on the task."""

    training: TaskTrainingConfig = field(default_factory=TaskTrainingConfig)


def _whole(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def varied_path(budget: MatchConfig | None, entry: EntryConfig) -> str | None:
    """The path of the number in the entry's model that the matching may change; None for none."""
    if budget is None or budget.by in ("flops", "wall_time"):
        return None
    has_mlp = any(block.mlp is not None and hasattr(block.mlp, "hidden") for block in entry.model.blocks)
    return entry.vary or (HIDDEN if budget.by == "parameters" and has_mlp else None)


def whole_numbers(model: ModelConfig) -> list[str]:
    """The paths of all numbers of a model that `vary` may name."""
    return sorted(key for key, value in flatten(encode(model, TASK_CHOICES)).items() if _whole(value))


def places(data: Any, path: str) -> Iterable[tuple[str, ...]]:
    """The keys of every whole number (or unset one) that `path` names in plain data."""
    key, _, rest = path.partition(".")
    items = dict(enumerate(data)) if isinstance(data, list) else data if isinstance(data, dict) else {}
    for name, value in items.items():
        if key not in ("*", str(name)):
            continue
        if rest:
            yield from ((str(name), *below) for below in places(value, rest))
        elif _whole(value):
            yield (str(name),)


def with_number(model: ModelConfig, path: str, number: int) -> ModelConfig:
    """The model with `number` wherever `path` leads. Raises ConfigError if it does not fit."""
    data = encode(model, TASK_CHOICES)
    data = override(data, [f"{'.'.join(keys)}={number}" for keys in places(data, path)])
    return decode(ModelConfig, data, TASK_CHOICES)
