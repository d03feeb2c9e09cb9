"""Suites that train in a second."""

import dataclasses
from pathlib import Path
from typing import Any

from small import text_file

from matrixstate.comparison import make_suite
from matrixstate.comparison.running.comparison import Comparison
from matrixstate.comparison.running.comparison_set import ComparisonSet
from matrixstate.comparison.running.tables import RESULTS, Result, read_rows
from matrixstate.comparison.suites.plan import make_plan, make_set_plan
from matrixstate.comparison.suites.set import make_set

TIMES = {"cpu_seconds", "wall_seconds", "step_cpu_seconds"}


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
        "data": "parity",
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
            "parity": {"title": "Parity & co", "data": "parity"},
            "cycle": {"data": "cycle_navigation", "training": {"length": 12}, "learning_rates": [1e-3, 1e-2]},
            "text": {"data": text["data"], "training": {"steps": 7}},
        },
        **changes,
    }


class Recorder:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int, int]] = []
        self.steps: list[int] = []
        self.names: list[str] = []

    def begin(self, what: str, jobs: int, finished: int, steps: int) -> None:
        self.begun.append((what, jobs, finished, steps))

    def update(self, steps: int, running: Any) -> None:
        self.steps.append(steps)

    def finished(self, name: str, result: Any) -> None:
        self.names.append(name)


def compared(out: Path, data: dict[str, Any], workers: int = 1) -> tuple[Comparison, Recorder]:
    """A comparison carried out, in this process unless there are more workers."""
    recorder, comparison = Recorder(), Comparison.create(out, make_plan(make_suite(data)))
    comparison.run(workers, recorder)
    return comparison, recorder


def compared_with_trials(place: Path) -> tuple[Comparison, Recorder]:
    """A comparison of texts with trials of three learning rates, carried out."""
    return compared(place / "out", text_data(place, learning_rates=[1e-3, 1e-2, 1e-1], trial_steps=4))


def compared_set(out: Path, data: dict[str, Any]) -> tuple[ComparisonSet, Recorder]:
    """A comparison of several parts, carried out in this process."""
    recorder, comparison = Recorder(), ComparisonSet.create(out, make_set_plan(make_set(data)))
    comparison.run(1, recorder)
    return comparison, recorder


def timeless(directory: Path) -> list[dict[str, Any]]:
    """The rows of results.csv without the measured times."""
    return [
        {key: value for key, value in dataclasses.asdict(row).items() if key not in TIMES}
        for row in read_rows(directory / RESULTS, Result)
    ]


def row(entry: str = "a", seed: int = 0, value: float | None = 1.0, **changes: Any) -> Result:
    """A row of results.csv."""
    common = {"suite": "s", "kind": "text", "metric": "bits per byte", "better": "lower", "train_length": 16}
    sizes = {"parameters": 1, "parameters_without_embeddings": 1, "state_bytes": 8, "flops_per_token": 1}
    return Result(
        **{**common, **sizes, "control": "a", "title": entry.upper(), "status": "done", **changes},
        entry=entry,
        seed=seed,
        value=value,
    )
