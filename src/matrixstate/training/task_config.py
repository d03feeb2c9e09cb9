"""What a run on a synthetic task is made of: its options, and how they are read."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from matrixstate.configs import Choices, decode, load_yaml, override, read_yaml
from matrixstate.data.tasks import TASKS, TaskConfig
from matrixstate.errors import CheckpointError, ConfigError, require, seed_checks
from matrixstate.models import ModelConfig
from matrixstate.training.config import CHOICES
from matrixstate.training.correction import SETTLING, corrected_mixers
from matrixstate.training.optimizer import RateConfig

TASK_CHOICES: Choices = {**CHOICES, TaskConfig: TASKS}


@dataclass(frozen=True)
class TaskTrainingConfig:
    """How a model is trained on a task. The defaults are those of the study behind our protocols."""

    steps: int = 1000
    """Optimizer steps."""
    length: int = 128
    """Steps of the longest training sequences."""
    lengths: Literal["grow", "uniform", "full"] = "grow"
    """grow: from `start`, doubled whenever mastered; uniform: any from `start` to `length`; full: `length` only."""
    start: int = 2
    """The shortest training sequences."""
    threshold: float = 0.95
    """Smoothed accuracy over a batch at which the length grows."""
    batch: int = 64
    """Sequences per step at full length."""
    max_batch: int = 256
    """Sequences per step where they are short; as many as fill a batch of full length, up to this."""
    learning_rate: float = 3e-3
    warmup: int = 50
    """Steps over which the learning rate rises from zero."""
    final_share: float = 0.05
    """The cosine ends at this share of the learning rate."""
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01
    """On weight matrices; not on norms, gates, biases, filters and recurrent weights."""
    rates: tuple[RateConfig, ...] = ()
    """Other learning rates for some of the parameters."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    codebooks: Literal["trained", "answers", "clusters"] = "trained"
    """Of MRUs that correct their state. trained: with all else, from the first step. The other two: training is without
    correction, and afterwards the codes are made of the model's states. answers: the mean state of every answer, which
    must say the whole state; clusters: the centres of as many clusters as there are codes."""
    max_skipped: int = 100
    """How many steps with a loss or gradient that is not finite are skipped before the run fails."""

    def __post_init__(self) -> None:
        counts = ("steps", "length", "start", "batch", "max_batch")
        require(
            *((getattr(self, n) > 0, f"{n}: expected at least 1, got {getattr(self, n)}") for n in counts),
            (self.start <= self.length, f"start: expected at most length = {self.length}, got {self.start}"),
            (self.max_batch >= self.batch, f"max_batch: expected at least batch = {self.batch}, got {self.max_batch}"),
            (0 < self.threshold <= 1, f"threshold: expected a share above 0, got {self.threshold}"),
            (self.warmup >= 0, f"warmup: expected 0 or more, got {self.warmup}"),
            (0 < self.learning_rate < math.inf, f"learning_rate: expected a positive number, got {self.learning_rate}"),
            (0 <= self.final_share <= 1, f"final_share: expected a share from 0 to 1, got {self.final_share}"),
            (0 <= self.beta1 < 1, f"beta1: expected a number in [0, 1), got {self.beta1}"),
            (0 <= self.beta2 < 1, f"beta2: expected a number in [0, 1), got {self.beta2}"),
            (0 <= self.weight_decay < math.inf, f"weight_decay: expected 0 or more, got {self.weight_decay}"),
            (0 < self.clip < math.inf, f"clip: expected a positive number, got {self.clip}"),
            (self.max_skipped >= 0, f"max_skipped: expected 0 or more, got {self.max_skipped}"),
        )


@dataclass(frozen=True)
class TaskRunConfig:
    """A run on a task: a name, a seed, a model, how it is trained and how far it is tested."""

    name: str
    model: ModelConfig
    task: TaskConfig
    training: TaskTrainingConfig = dataclasses.field(default_factory=TaskTrainingConfig)
    evaluate_length: int = 8192
    """The longest sequences of the evaluation."""
    evaluate_sequences: int = 64
    """Sequences of the evaluation; the same for every model and seed."""
    seed: int = 0
    """Of the weights and the training sequences."""

    def __post_init__(self) -> None:
        wanted, given = self.task.vocabulary, self.model.vocabulary
        require(
            *seed_checks(self.seed),
            (self.evaluate_length > 0, f"evaluate_length: expected at least 1, got {self.evaluate_length}"),
            (self.evaluate_sequences > 0, f"evaluate_sequences: expected at least 1, got {self.evaluate_sequences}"),
            (
                given is None or given >= wanted,
                f"model.vocabulary: expected at least {wanted}, the task's, got {given}",
            ),
            *self._lengths(),
            *self._codebooks(),
        )

    def _lengths(self) -> Iterable[tuple[bool, str]]:
        """Checks that the task exists at the ends of every range of lengths."""
        lengths = {"training.length": self.training.length, "evaluate_length": self.evaluate_length}
        if self.training.lengths != "full":
            lengths = {"training.start": self.training.start, **lengths}
        for key, length in lengths.items():
            problem = _refusal(self.task, length) if length > 0 else None
            yield problem is None, f"{key}: {problem}"

    def _codebooks(self) -> Iterable[tuple[bool, str]]:
        """Checks that codes made of states, which are every head's own, have a place."""
        kind = self.training.codebooks
        if kind == "trained":
            return
        mixers = corrected_mixers(self.model)
        yield (
            bool(mixers),
            f"training.codebooks: expected trained without an MRU that corrects its state (snap), got {kind}",
        )
        yield (
            self.training.length > SETTLING,
            f"training.length: expected more than {SETTLING} for codebooks made of {kind}, got {self.training.length}",
        )
        for mixer in mixers:
            fewest = self.task.vocabulary if kind == "answers" else 1
            yield (
                mixer.code_groups == mixer.heads,
                f"model: code_groups: expected {mixer.heads}, one per head, where codebooks are made of {kind}, "
                f"got {mixer.code_groups}",
            )
            yield (
                mixer.codes >= fewest,
                f"model: codes: expected at least {fewest}, the task's answers, got {mixer.codes}",
            )

    @property
    def measured_lengths(self) -> tuple[int, ...]:
        """What the evaluation measures: the training length, doubled as long as it is below the longest, and that."""
        return measured_lengths(self.training.length, self.evaluate_length)

    def sized_model(self) -> ModelConfig:
        """The model with the task's vocabulary where it names none."""
        return dataclasses.replace(self.model, vocabulary=self.model.vocabulary or self.task.vocabulary)


def measured_lengths(trained: int, longest: int) -> tuple[int, ...]:
    """The lengths at which a model trained to one length and tested to another is measured, ascending."""
    return (*(trained * 2**k for k in range(longest.bit_length()) if trained * 2**k < longest), longest)


@lru_cache
def _refusal(task: TaskConfig, length: int) -> str | None:
    """What a task says of a length at which it does not exist; None where it does."""
    if task.prefix:  # then every length is the beginning of a longer one
        return None
    try:
        task.at(0, 0, 1, length)
    except ConfigError as error:
        return str(error).removeprefix("length: ")
    return None


def names_task(path: Path) -> bool:
    """Whether a YAML file describes a training on a task, not on a text. Raises ConfigError if it is none."""
    return "task" in load_yaml(path)


def load_task(path: Path, assignments: Iterable[str] = ()) -> TaskRunConfig:
    """The run that a YAML file describes, with "a.b=value" overrides. Raises ConfigError with every mistake."""
    data = override(load_yaml(path), assignments)
    data.setdefault("name", path.stem)
    return decode(TaskRunConfig, data, TASK_CHOICES)


def load_task_config(directory: Path) -> TaskRunConfig:
    """The config of a task's run. Raises CheckpointError if it is missing or damaged."""
    path = directory / "config.yaml"
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and "task" not in data:
            raise ConfigError("it names no task")
        return decode(TaskRunConfig, data, TASK_CHOICES)
    except OSError as error:
        raise CheckpointError(f"run: expected a task's run with {path}: {error.strerror}") from error
    except (UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"run: expected a task's run with {path}: {' '.join(str(error).split())}") from error
