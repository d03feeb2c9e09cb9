"""The config of a run on a synthetic task."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from matrixstate.data.tasks import TaskConfig
from matrixstate.errors import ConfigError
from matrixstate.models import ModelConfig
from matrixstate.training.config import RunConfig, TrainingConfig
from matrixstate.training.correction import BURN_IN, corrected_mixers, with_correction


@dataclass(frozen=True)
class TaskTrainingConfig(TrainingConfig):
    """Options of training on a task."""

    steps: int = 1000
    length: int = 128
    """Steps of the longest training sequences, the full length."""
    lengths: Literal["grow", "uniform", "full"] = "grow"
    """grow: doubled from `start` on, at each `threshold`; uniform: drawn from `start` to `length`; full: `length`."""
    start: int = 2
    """Steps of the shortest training sequences."""
    threshold: float = 0.95
    """The length grows when the running mean of the batches' accuracy reaches this share."""
    batch: int = 64
    """Sequences per step at full length."""
    max_batch: int = 256
    """Most sequences per step: shorter ones come in larger batches, of as many tokens as one of full length."""
    learning_rate: float = 3e-3
    final_share: float = 0.05
    warmup: int = 50
    beta2: float = 0.98
    weight_decay: float = 0.01
    codebooks: Literal["trained", "answers", "clusters"] = "trained"
    """Of MRUs that correct their state. trained: as parameters, from the first step. Otherwise training is without
    correction, and the codes are made of the model's states afterwards. answers: the mean state of every answer, which
    must determine the state; clusters: the centres of as many clusters as there are codes."""
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
    """A run on a task: the model, how it is trained, and the lengths at which it is evaluated."""

    data: TaskConfig
    """The task."""
    training: TaskTrainingConfig = dataclasses.field(default_factory=TaskTrainingConfig)
    _: dataclasses.KW_ONLY
    evaluate_length: int = 8192
    """Steps of the longest sequences in the evaluation."""
    evaluate_sequences: int = 64
    """How many sequences are evaluated; the same ones for every model and seed."""

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
        """Checks that the task is defined at the ends of the ranges of lengths."""
        lengths = {"training.length": self.training.length, "evaluate_length": self.evaluate_length}
        if self.training.lengths != "full":
            lengths = {"training.start": self.training.start, **lengths}
        for key, length in lengths.items():
            problem = _refusal(self.data, length) if length > 0 else None
            yield problem is None, f"{key}: {problem}"

    def _codebooks(self) -> Iterable[tuple[bool, str]]:
        """Checks that codes made of states fit the codebooks: one codebook per head, and enough entries."""
        kind = self.training.codebooks
        if kind == "trained":
            return
        mixers = corrected_mixers(self.model)
        yield (
            bool(mixers),
            f"training.codebooks: expected trained without an MRU that corrects its state (snap), got {kind}",
        )
        yield (
            self.training.length > BURN_IN,
            f"training.length: expected more than {BURN_IN} for codebooks made of {kind}, got {self.training.length}",
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
        """The lengths that the evaluation measures: `measured_lengths` of the config."""
        return measured_lengths(self.training.length, self.evaluate_length)

    def initial_model(self) -> ModelConfig:
        """The model with the task's vocabulary; without error correction where the codes are made after training."""
        final = self.final_model()
        return final if self.training.codebooks == "trained" else with_correction(final, 0)

    def final_model(self) -> ModelConfig:
        """The model with the task's vocabulary where it names none."""
        return dataclasses.replace(self.model, vocabulary=self.model.vocabulary or self.data.vocabulary)


def measured_lengths(trained: int, longest: int) -> tuple[int, ...]:
    """The training length times 1, 2, 4, ... below the longest, and the longest; ascending."""
    return (*(trained * 2**k for k in range(longest.bit_length()) if trained * 2**k < longest), longest)


@lru_cache
def _refusal(task: TaskConfig, length: int) -> str | None:
    """The task's error for a length at which it is not defined; None where it is. Cached, as it makes a sequence."""
    if task.prefix:  # a sequence of any length is the beginning of a longer one
        return None
    try:
        task.at(0, 0, 1, length)
    except ConfigError as error:
        return str(error).removeprefix("length: ")
    return None
