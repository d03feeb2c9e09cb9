"""The results of a comparison as CSV tables, from which figures and reports are made without anything else."""

import csv
import dataclasses
import io
import math
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from matrixstate.errors import CheckpointError
from matrixstate.training.run import replace_file

RESULTS, TRIALS, CURVES, MATCHING = "results.csv", "trials.csv", "curves.csv", "matching.csv"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One row of results.csv: an entry trained with one seed."""

    suite: str
    """The comparison's title."""
    kind: Literal["text", "task"]
    metric: str
    """Name and unit of `value`."""
    better: Literal["lower", "higher"]
    train_length: int
    """Length of the longest training sequences, in tokens."""
    control: str
    """Name of the entry that the others are compared with."""
    solved_at: float | None = None
    """The smallest value that counts as having solved a task."""
    entry: str
    title: str
    seed: int
    status: Literal["done", "failed"]
    reason: str = ""
    """Why the training failed."""
    learning_rate: float | None = None
    parameters: int
    parameters_without_embeddings: int
    state_bytes: int
    flops_per_token: int
    steps: int = 0
    tokens: int = 0
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    step_cpu_seconds: float | None = None
    """Median CPU seconds of a training step."""
    value: float | None = None
    """The metric."""
    item_error: float | None = None
    """Standard error of `value` over the windows of text it was measured on; an upper bound over a task's sequences."""
    items: int | None = None
    solved: bool | None = None
    nats_per_token: float | None = None
    spikes: int | None = None
    """Number of rises of the training loss by more than half a nat."""
    state_log10: float | None = None
    """log10 of the largest norm of a state during training."""
    value_at_train_length: float | None = None
    value_at_longest: float | None = None
    tail_accuracy: float | None = None
    """Accuracy over the last eighth of the longest sequences."""
    all_correct: float | None = None
    """Fraction of the longest sequences without any mistake."""
    horizon: int | None = None
    """The longest length at which 90 % of the sequences have no mistake."""
    tail_horizon: int | None = None
    """The longest length at which, as at all shorter ones, the last eighth has an accuracy of 99.9 %."""
    solved_step: int | None = None
    """The step at which an accuracy of 99 % at the full training length was reached."""
    solved_cpu_seconds: float | None = None

    @property
    def is_finite(self) -> bool:
        """Whether its value, if any, can be compared."""
        return self.value is None or math.isfinite(self.value)

    def with_solved(self) -> "Result":
        """The same row with `solved` set; unchanged for a text."""
        if self.solved_at is None:
            return self
        return dataclasses.replace(self, solved=self.value is not None and self.value >= self.solved_at)

    @property
    def better_word(self) -> str:
        """ "lowest" or "highest", whichever is best."""
        return "lowest" if self.better == "lower" else "highest"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row of trials.csv: an entry trained with the trial seed at one learning rate."""

    entry: str
    title: str
    learning_rate: float
    seed: int
    status: Literal["done", "failed"]
    reason: str = ""
    steps: int = 0
    value: float | None = None
    chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row of curves.csv."""

    entry: str
    title: str
    seed: int
    curve: str
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class Size:
    """One row of matching.csv: how an entry met the budget."""

    entry: str
    title: str
    budget: str
    """What was matched; "" if nothing was."""
    varied: str
    number: int | None
    parameters: int
    parameters_without_embeddings: int
    state_bytes: int
    flops_per_token: int
    steps: int
    tokens: int
    flops: int


@dataclass(frozen=True, kw_only=True)
class PartColumns:
    """The first columns of a table over several parts."""

    comparison: str
    """Title of the set."""
    part: str


@dataclass(frozen=True, kw_only=True)
class PartResult(Result, PartColumns):  # the fields of the last base come first
    """One row of results.csv of a comparison of several parts: a result and its part."""


R = TypeVar("R", Result, PartResult, Trial, Point, Size)


def write_rows(path: Path, kind: type[R], rows: Iterable[R]) -> None:
    """Writes a CSV file with the fields of `kind` as columns; None is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [field.name for field in dataclasses.fields(kind)]
    writer.writerow(names)
    for row in rows:
        writer.writerow([_text(getattr(row, name)) for name in names])
    replace_file(path, out.getvalue())


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def read_rows(path: Path, kind: type[R]) -> list[R]:
    """The rows of a file written by `write_rows`. Raises CheckpointError if it is missing or damaged."""
    hints = typing.get_type_hints(kind)
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return [kind(**{name: _value(hints[name], line[name]) for name in hints}) for line in lines]
    except OSError as error:
        raise CheckpointError(f"compare: expected {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise CheckpointError(f"compare: {path} is damaged: {type(error).__name__}: {error}") from error


def _value(hint: Any, text: str) -> Any:
    kinds = [h for h in typing.get_args(hint) if h is not type(None)]
    if typing.get_origin(hint) is types.UnionType:
        return None if text == "" else _value(kinds[0], text)
    if hint is bool:
        if text not in ("yes", "no"):
            raise ValueError(f"expected yes or no, got {text!r}")
        return text == "yes"
    if typing.get_origin(hint) is Literal:
        if text not in kinds:
            raise ValueError(f"expected one of {kinds}, got {text!r}")
        return text
    return hint(text)


def by_entry(rows: Sequence[R]) -> dict[str, list[R]]:
    """Rows grouped by entry, in the order of their first rows."""
    groups: dict[str, list[R]] = {}
    for row in rows:
        groups.setdefault(row.entry, []).append(row)
    return groups


def by_part(rows: Sequence[PartResult]) -> dict[str, list[PartResult]]:
    """Rows grouped by part, in the order of their first rows."""
    groups: dict[str, list[PartResult]] = {}
    for row in rows:
        groups.setdefault(row.part, []).append(row)
    return groups


def values(rows: Iterable[Result]) -> dict[int, float]:
    """Seed -> value, of the finished rows with a finite value."""
    return {row.seed: row.value for row in rows if row.status == "done" and row.value is not None and row.is_finite}
