"""A suite: entries, seeds, a text or task, a budget and learning rates, as data."""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from matrixstate.comparison.suites.entries import (
    EntryConfig,
    MatchConfig,
    TaskEntry,
    TextEntry,
    expand_path,
    integer_options,
    varied_path,
)
from matrixstate.comparison.suites.metrics import METRICS
from matrixstate.configs import encode, nearest
from matrixstate.data import DataConfig
from matrixstate.data.tasks import TaskConfig
from matrixstate.errors import require
from matrixstate.models import ModelConfig
from matrixstate.plugins import plugin_hint
from matrixstate.training import CHOICES, TaskRunConfig, TextRunConfig
from matrixstate.training.task_config import measured_lengths


@dataclass(frozen=True, kw_only=True)
class SuiteConfig(ABC):
    """What suites on texts and on tasks have in common."""

    kind: ClassVar[str]

    name: str
    """The default directory is runs/NAME."""
    title: str | None = None
    """Of the report. Default: the name."""
    seeds: int = 3
    """Number of trainings of each entry, with seeds first_seed, first_seed + 1, ..."""
    first_seed: int = 0
    match: MatchConfig | None = None
    """The budget. Default: none; every entry is trained as configured, and the report says so."""
    learning_rates: tuple[float, ...] = ()
    """Tried for every entry with one seed; the best is used. Default: no trials, each entry's own rate."""
    trial_steps: int | None = None
    """Steps of a trial. Default: those of the training."""
    trial_seed: int = 1000
    """Seed of all trials; none of the comparison's seeds."""
    control: str | None = None
    """The entry that all others are compared with. Default: the first."""
    metric: str | None = None
    """A plug-in's metric to compare by. Default: bits per byte of a text, accuracy on a task."""

    @property
    @abstractmethod
    def entries(self) -> tuple[EntryConfig, ...]:
        """The entries, in the order of the file."""

    @property
    @abstractmethod
    def own_metric(self) -> tuple[str, str]:
        """What the models are compared by if no metric is given, as reports name it, and which values are better."""

    @property
    def metric_label(self) -> str:
        """What the models are compared by, as reports name it."""
        return self.own_metric[0] if self.metric is None else METRICS[self.metric].label

    @property
    def better(self) -> str:
        """Which values of the metric are better: "lower" or "higher"."""
        return self.own_metric[1] if self.metric is None else METRICS[self.metric].better

    @property
    def solved_at(self) -> float | None:
        """The smallest value that counts as having solved a task; None for a text."""
        return None

    @property
    def measured_to(self) -> int | None:
        """For a task: the length up to which the value is measured. None: the longest, or a text."""
        return None

    @abstractmethod
    def run_config(self, entry: str, model: ModelConfig) -> Any:
        """The run of that entry, with `model`, its model at the budget."""

    def entry(self, name: str) -> EntryConfig:
        """The entry with that name."""
        return next(entry for entry in self.entries if entry.name == name)

    @property
    def reference(self) -> str:
        """The name of the control."""
        return self.control or self.entries[0].name

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    def __post_init__(self) -> None:
        names = Counter(entry.name for entry in self.entries)
        rates = self.learning_rates
        require(
            (is_plain(self.name), f"name: expected {PLAIN}, got {self.name!r}"),
            (self.seeds > 0, f"seeds: expected at least 1, got {self.seeds}"),
            (self.first_seed >= 0, f"first_seed: expected 0 or more, got {self.first_seed}"),
            (self.trial_seed >= 0, f"trial_seed: expected 0 or more, got {self.trial_seed}"),
            (
                not rates or self.trial_seed not in self.all_seeds,
                f"trial_seed: expected a seed that the comparison does not use, got {self.trial_seed}",
            ),
            (
                self.trial_steps is None or self.trial_steps > 0,
                f"trial_steps: expected at least 1, got {self.trial_steps}",
            ),
            (
                all(0 < rate < math.inf for rate in rates) and len(set(rates)) == len(rates),
                f"learning_rates: expected different positive numbers, got {list(rates)}",
            ),
            (bool(names), "models: expected at least one entry, got none"),
            *((is_plain(name), f"models: name: expected {PLAIN}, got {name!r}") for name in names),
            *((n == 1, f"models: name: expected each once, got {name!r} {n} times") for name, n in names.items()),
            (
                self.control is None or self.control in names,
                f"control: expected the name of an entry, got {self.control!r}{nearest(str(self.control), names)}",
            ),
            (
                self.metric is None or self.metric in METRICS,
                f"metric: unknown name {self.metric!r}{plugin_hint(METRICS)}",
            ),
            *_varied(self),
        )


PLAIN = "letters, digits, '-', '_' and '.'"


def is_plain(name: str) -> bool:
    """Whether a name is safe as the name of a directory."""
    return bool(name) and all(c.isalnum() or c in "-_." for c in name) and not name.startswith(".")


def _varied(suite: SuiteConfig) -> Iterable[tuple[bool, str]]:
    """Checks that every entry has an option to vary, if the budget needs one."""
    by = None if suite.match is None else suite.match.by
    for entry in suite.entries:
        path = varied_path(suite.match, entry)
        if by == "state_bytes" and path is None and entry.name != suite.reference:
            yield False, f"models: {entry.name}: vary: expected the option that sets the state's size, got none"
        if path is not None:
            found = [*expand_path(encode(entry.model, CHOICES), path)]
            known = nearest(path, integer_options(entry.model))
            yield bool(found), f"models: {entry.name}: vary: no such integer option: {path!r}{known}"


@dataclass(frozen=True, kw_only=True)
class TextSuite(SuiteConfig):
    """Models trained on one text and compared by bits per byte of its validation part."""

    kind: ClassVar[str] = "text"

    models: tuple[TextEntry, ...]
    data: DataConfig = field(default_factory=DataConfig)

    @property
    def entries(self) -> tuple[TextEntry, ...]:
        return self.models

    @property
    def own_metric(self) -> tuple[str, str]:
        return "bits per byte", "lower"

    def run_config(self, entry: str, model: ModelConfig) -> TextRunConfig:
        training = next(e.training for e in self.models if e.name == entry)
        return TextRunConfig(name=entry, model=model, data=self.data, training=training)

    def __post_init__(self) -> None:
        super().__post_init__()
        lengths = {entry.training.sequence for entry in self.models}
        limits = [(e, e.model.learned_positions) for e in self.models]
        require(
            (len(lengths) == 1, f"models: training.sequence: expected one length for all, got {sorted(lengths)}"),
            *(
                (
                    limit is None or e.training.sequence <= limit,
                    f"models: {e.name}: training.sequence: expected at most {limit}, the learned positions, "
                    f"got {e.training.sequence}",
                )
                for e, limit in limits
            ),
        )


@dataclass(frozen=True, kw_only=True)
class TaskSuite(SuiteConfig):
    """Models trained on one synthetic task and compared by accuracy, also on sequences longer than in training."""

    kind: ClassVar[str] = "task"

    models: tuple[TaskEntry, ...]
    data: TaskConfig
    """The task."""
    evaluate_length: int = 1024
    """Length of the longest sequences of the evaluation."""
    value_length: int | None = None
    """The length up to which the compared accuracy is measured. Default: evaluate_length. For tasks whose prefixes are
    not sequences themselves, as in recall: the training length, doubled or not, or evaluate_length."""
    evaluate_sequences: int = 64
    """Number of sequences of the evaluation, which are the same for every entry and seed."""
    solved: float = 0.99
    """The smallest value with which a seed counts as having solved the task."""

    @property
    def entries(self) -> tuple[TaskEntry, ...]:
        return self.models

    @property
    def own_metric(self) -> tuple[str, str]:
        return f"accuracy to length {self.value_length or self.evaluate_length:,}", "higher"

    @property
    def solved_at(self) -> float | None:
        return self.solved if self.metric is None else None

    @property
    def measured_to(self) -> int | None:
        return self.value_length

    def run_config(self, entry: str, model: ModelConfig) -> TaskRunConfig:
        training = next(e.training for e in self.models if e.name == entry)
        lengths = {"evaluate_length": self.evaluate_length, "evaluate_sequences": self.evaluate_sequences}
        return TaskRunConfig(name=entry, model=model, data=self.data, training=training, **lengths)

    def __post_init__(self) -> None:
        super().__post_init__()
        by = None if self.match is None else self.match.by
        longest = max(entry.training.length for entry in self.models)
        require(
            (
                by not in ("flops", "wall_time"),
                f"match.by: expected parameters or state_bytes for a task, whose curriculum sets the cost, got {by}",
            ),
            (0 < self.solved <= 1, f"solved: expected an accuracy above 0, got {self.solved}"),
            (self.evaluate_sequences > 0, f"evaluate_sequences: expected at least 1, got {self.evaluate_sequences}"),
            (
                self.value_length is None or 0 < self.value_length <= self.evaluate_length,
                f"value_length: expected 1 to evaluate_length = {self.evaluate_length}, got {self.value_length}",
            ),
            *self._measured(),
            (
                self.evaluate_length >= longest,
                f"evaluate_length: expected at least {longest}, the longest of training, got {self.evaluate_length}",
            ),
        )

    def _measured(self) -> Iterable[tuple[bool, str]]:
        """Checks that `value_length` is measured. All are, if prefixes of sequences are sequences themselves."""
        wanted = self.value_length
        if self.data.prefix or wanted is None or not 0 < wanted <= self.evaluate_length:
            return
        for trained in sorted({entry.training.length for entry in self.models}):
            measured = measured_lengths(trained, self.evaluate_length)
            known = ", ".join(map(str, measured))
            yield wanted in measured, f"value_length: expected one of the lengths measured, {known}, got {wanted}"
