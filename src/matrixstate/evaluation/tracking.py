"""State tracking: the accuracy of a model at every length of a task's sequences, from one pass over the longest."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from matrixstate.data.tasks import IGNORE, AutomatonConfig, TaskConfig
from matrixstate.data.tasks.task import Ints
from matrixstate.errors import ConfigError
from matrixstate.layers.mixer import state_leaves
from matrixstate.models import LanguageModel

HELD_OUT = 2**31
"""The step whose random numbers evaluation draws, beyond those of any training."""

CHUNK_NUMBERS = 2**25  # numbers in the largest activations of a chunk: 128 MiB in float32


@dataclass(frozen=True)
class Tracking:
    """Counts of right answers by position, up to the longest length T.

    If `prefix` is false, every length has sequences of its own, and position t counts the answers in those of t + 1
    steps.
    """

    prefix: bool  # whether a prefix of a sequence of the task is one as well
    sequences: int  # per length
    right: Ints  # [T], right answers
    asked: Ints  # [T], answers asked for
    whole: Ints  # [T], sequences without a wrong answer up to and including this step

    @property
    def length(self) -> int:
        """T, the longest length."""
        return len(self.asked)

    def accuracy(self, first: int, end: int) -> float:
        """Share of right answers at positions `first` <= position < `end`; NaN where none is asked for."""
        asked = int(self.asked[first:end].sum())
        return float(self.right[first:end].sum() / asked) if asked else float("nan")

    def token_accuracy(self, length: int) -> float:
        """Accuracy over the first `length` steps."""
        return self.accuracy(0 if self.prefix else length - 1, length)

    def tail_accuracy(self, length: int) -> float:
        """Accuracy over the last eighth of the first `length` steps."""
        return self.accuracy(length - max(1, length // 8) if self.prefix else length - 1, length)

    def all_correct(self, length: int) -> float:
        """Share of sequences without a wrong answer in the first `length` steps."""
        return float(self.whole[length - 1] / self.sequences)

    def horizon(self, level: float) -> int:
        """The longest length up to which `tail_accuracy` is at least `level` at every length.

        0 if it is not at the shortest. Lengths without questions are ignored.
        """
        best = 0
        for length in self.lengths():
            accuracy = self.tail_accuracy(length)
            if accuracy < level:
                break
            best = length if accuracy >= level else best  # neither for NaN
        return best

    def whole_horizon(self, level: float) -> int:
        """The longest length at which `all_correct` is at least `level`; 0 if there is none."""
        return max((length for length in self.lengths() if self.all_correct(length) >= level), default=0)

    def lengths(self) -> list[int]:
        """The lengths to report: all that were measured, or with `prefix` about eight per doubling."""
        if not self.prefix:
            return [int(t) + 1 for t in np.flatnonzero(self.asked)]
        grid = {round(2 ** (k / 8)) for k in range(8 * self.length.bit_length() + 1)}
        return sorted(length for length in grid | {self.length} if length <= self.length)

    def curve(self) -> list[tuple[int, float]]:
        """Points (length, accuracy of the steps since the previous length) for `lengths`, without NaN."""
        lengths = self.lengths()
        firsts = [0, *lengths[:-1]] if self.prefix else [length - 1 for length in lengths]
        points = [(end, self.accuracy(first, end)) for first, end in zip(firsts, lengths, strict=True)]
        return [(length, accuracy) for length, accuracy in points if accuracy == accuracy]  # not NaN

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("right", "asked", "whole")}
        return {"prefix": self.prefix, "sequences": self.sequences, **arrays}

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> "Tracking":
        """The `Tracking` that `data` was made from."""
        arrays = {name: np.array(data[name], dtype=np.int64) for name in ("right", "asked", "whole")}
        return cls(bool(data["prefix"]), int(data["sequences"]), **arrays)


@torch.no_grad()
def track(
    model: LanguageModel,
    task: TaskConfig,
    lengths: tuple[int, ...],
    *,
    sequences: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tracking:
    """Measure a model on held-out sequences of the longest length, or of each length if prefixes are not sequences.

    Args:
        model: on the CPU; put in evaluation mode.
        task: automata are asked after every step, whatever `last_only` says, for every step is the last of a prefix.
        lengths: at least one, each at least 1. Long sequences are read in chunks, so memory is constant but for the
            cache of attention.
        sequences: per length.
        seed: of the sequences. The same seed gives every model the same ones; no training, of any seed, has them.
        progress: called with (steps done, steps in all).

    Raises:
        ConfigError: no lengths, or a length or number of sequences below 1.
    """
    if not lengths or min(lengths) < 1 or sequences < 1:
        raise ConfigError(f"track: expected lengths and sequences of at least 1, got {lengths} and {sequences}")
    model.eval()
    task = replace(task, last_only=False) if isinstance(task, AutomatonConfig) else task
    wanted = (max(lengths),) if task.prefix else tuple(sorted(set(lengths)))
    right, asked, whole = np.zeros((3, max(wanted)), dtype=np.int64)
    done = 0
    for length in wanted:
        tokens, targets = task.at(seed, HELD_OUT, sequences, length)
        first_error = np.full(sequences, length)
        for start, answers in _answers(model, tokens):
            expected = targets[:, start : start + answers.shape[1]]
            due = (expected != IGNORE).numpy()
            correct = (answers == expected).numpy()
            place = slice(start, start + due.shape[1]) if task.prefix else slice(length - 1, length)
            right[place] += (correct & due).sum(axis=0) if task.prefix else (correct & due).sum()
            asked[place] += due.sum(axis=0) if task.prefix else due.sum()
            wrong = due & ~correct
            first_here = np.where(wrong.any(axis=1), start + wrong.argmax(axis=1), length)
            first_error = np.minimum(first_error, first_here)
            if progress is not None:
                progress(done + start + due.shape[1], sum(wanted))
        done += length
        steps = np.arange(length) if task.prefix else np.array([length - 1])
        whole[steps] = (first_error[:, None] > steps).sum(axis=0)
    return Tracking(task.prefix, sequences, right, asked, whole)


def _answers(model: LanguageModel, tokens: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """(first step, most likely answers [N, steps]) of one chunk after another, with the state carried along."""
    width = max(model.config.width * 8, model.config.vocabulary or 1)
    numbers = sum(leaf.numel() for leaf in state_leaves(model.init_state(1))) // max(1, len(model.blocks))
    chunk = max(16, CHUNK_NUMBERS // (len(tokens) * max(width, numbers)))
    state = None
    for start in range(0, tokens.shape[1], chunk):
        logits, state = model(tokens[:, start : start + chunk].to(model.device), state)
        yield start, logits.argmax(dim=-1).cpu()
