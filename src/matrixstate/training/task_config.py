"""What a run on a synthetic task is made of."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from matrixstate.data.tasks import TaskConfig
from matrixstate.errors import ConfigError
from matrixstate.models import ModelConfig
from matrixstate.training.config import RunConfig, TrainingConfig
from matrixstate.training.correction import SETTLING, corrected_mixers, with_correction


@dataclass(frozen=True)
class TaskTrainingConfig(TrainingConfig):
    """How a model is trained on a task. The defaults are those of the study behind our protocols."""

    steps: int = 1000
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
    final_share: float = 0.05
    warmup: int = 50
    beta2: float = 0.98
    weight_decay: float = 0.01
    codebooks: Literal["trained", "answers", "clusters"] = "trained"
    """Of MRUs that correct their state. trained: with all else, from the first step. The other two: training is without
    correction, and afterwards the codes are made of the model's states. answers: the mean state of every answer, which
    must say the whole state; clusters: the centres of as many clusters as there are codes."""
    on_nonfinite: Literal["stop", "skip"] = "skip"
    max_skipped: int = 100

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), "length", "start", "max_batch")

    def _checks(self) -> tuple[tuple[bool, str], ...]:
        return (
            (self.start <= self.length, f"start: expected at most length = {self.length}, got {self.start}"),
            (self.max_batch >= self.batch, f"max_batch: expected at least batch = {self.batch}, got {self.max_batch}"),
            (0 < self.threshold <= 1, f"threshold: expected a share above 0, got {self.threshold}"),
        )


@dataclass(frozen=True)
class TaskRunConfig(RunConfig):
    """A run on a task: how a model is trained, and how far it is tested."""

    data: TaskConfig
    """The task."""
    training: TaskTrainingConfig = dataclasses.field(default_factory=TaskTrainingConfig)
    _: dataclasses.KW_ONLY
    evaluate_length: int = 8192
    """The longest sequences of the evaluation."""
    evaluate_sequences: int = 64
    """Sequences of the evaluation; the same for every model and seed."""

    def _checks(self) -> tuple[tuple[bool, str], ...]:
        wanted, given = self.data.vocabulary, self.model.vocabulary
        return (
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
            problem = _refusal(self.data, length) if length > 0 else None
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
            fewest = self.data.vocabulary if kind == "answers" else 1
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

    def initial_model(self) -> ModelConfig:
        """The model with the task's vocabulary; without error correction where the codes are made after training."""
        final = self.final_model()
        return final if self.training.codebooks == "trained" else with_correction(final, 0)

    def final_model(self) -> ModelConfig:
        """The model with the task's vocabulary where it names none."""
        return dataclasses.replace(self.model, vocabulary=self.model.vocabulary or self.data.vocabulary)


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
