"""Suites that train in a second."""

from pathlib import Path
from typing import Any

from small import text_file

from matrixstate.comparison import make_suite
from matrixstate.comparison.plan import make_plan
from matrixstate.comparison.runner import Comparison
from matrixstate.comparison.set_runner import ComparisonSet, make_set_plan
from matrixstate.comparison.suite_set import make_set


def block(mixer: Any = "conv", hidden: int = 8) -> dict[str, Any]:
    return {"mixer": mixer, "mlp": {"hidden": hidden}}


def text_data(directory: Path, **changes: Any) -> dict[str, Any]:
    """Two entries of 16 channels, two seeds, six steps."""
    return {
        "name": "tiny",
        "seeds": 2,
        "training": {
            "steps": 6,
            "batch": 2,
            "sequence": 16,
            "warmup": 2,
            "evaluate_every": 3,
            "checkpoint_every": 2,
        },
        "data": {"files": [str(text_file(directory))], "validation": 0.05},
        "models": [
            {"name": "conv", "label": "a <convolution>", "model": {"width": 16, "blocks": [block()]}},
            {"name": "gru", "model": {"width": 16, "blocks": [block({"kind": "gru", "heads": 2})]}},
        ],
        **changes,
    }


def task_data(**changes: Any) -> dict[str, Any]:
    """One entry on parity, two seeds, a few steps."""
    model = {"width": 8, "blocks": [block({"kind": "gru", "heads": 1})]}
    training = {"steps": 4, "length": 8, "batch": 4, "max_batch": 8, "warmup": 2}
    return {
        "name": "tiny-task",
        "seeds": 2,
        "task": "parity",
        "evaluate_length": 32,
        "evaluate_sequences": 4,
        "training": training,
        "models": [{"name": "gru", "model": model}],
        **changes,
    }


def set_data(directory: Path, **changes: Any) -> dict[str, Any]:
    """Two entries, two seeds, a few steps; on parity, on a cycle and on a text."""
    text = text_data(directory)
    return {
        "name": "tiny-set",
        "title": "Two <tasks> and a text",
        "seeds": 2,
        "evaluate_length": 32,
        "evaluate_sequences": 4,
        "training": {**text["training"], "length": 8, "max_batch": 8},
        "models": text["models"],
        "parts": {
            "parity": {"title": "Parity & co", "task": "parity"},
            "cycle": {"task": "cycle_navigation", "training": {"length": 12}, "learning_rates": [1e-3, 1e-2]},
            "text": {"data": text["data"], "training": {"steps": 7}},
        },
        **changes,
    }


class Notes:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int, int]] = []
        self.steps: list[int] = []
        self.names: list[str] = []

    def begin(self, what: str, jobs: int, finished: int, steps: int) -> None:
        self.begun.append((what, jobs, finished, steps))

    def update(self, steps: int, running: Any) -> None:
        self.steps.append(steps)

    def ended(self, name: str, found: Any) -> None:
        self.names.append(name)


def compared(out: Path, data: dict[str, Any], workers: int = 1) -> tuple[Comparison, Notes]:
    """A comparison carried out, in this process unless there are more workers."""
    notes, comparison = Notes(), Comparison.create(out, make_plan(make_suite(data)))
    comparison.run(workers, notes)
    return comparison, notes


def compared_set(out: Path, data: dict[str, Any]) -> tuple[ComparisonSet, Notes]:
    """A comparison of several parts, carried out in this process."""
    notes, comparison = Notes(), ComparisonSet.create(out, make_set_plan(make_set(data)))
    comparison.run(1, notes)
    return comparison, notes
