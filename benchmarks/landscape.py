"""Who mixes, who tracks, who recalls, at what cost: every mixer on a text and three tasks, one seed each.

    python benchmarks/landscape.py --out DIR [--text DIR] [--kinds mru gla ...] [--tasks s3 parity recall]
    python benchmarks/landscape.py --write          # only writes docs/landscape.md's table and figure anew

One thread. Finished trainings are not repeated. The losses on the text are those that benchmarks/shakespeare.py left in
the directory --text. All numbers are kept in docs/results/landscape.csv, so that a run may measure some of the mixers.
"""

import argparse
import csv
import json
import re
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from tables import markdown, write_section

from matrixstate.configs import decode
from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure
from matrixstate.mixers import MIXERS
from matrixstate.models import count
from matrixstate.training import CHOICES, TaskRunConfig, start, train

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS = DOCS / "results" / "landscape.csv"


@dataclass(frozen=True)
class Task:
    """A task, its training, and the lengths over which accuracies are taken."""

    name: str
    data: dict[str, Any]
    width: int
    layers: int
    training: dict[str, Any]
    lengths: tuple[int, ...]
    sequences: int
    conv: bool = False  # whether mixers that have a short convolution keep it

    def config(self, kind: str) -> TaskRunConfig:
        block = {"mixer": {"kind": kind, **options(kind, self)}, "mlp": {"hidden": 64}, "repeat": self.layers}
        data = {
            "name": kind,
            "model": {"width": self.width, "tied": False, "blocks": [block]},
            "data": self.data,
            "training": {**self.training, **TRAINING.get((kind, self.name), {})},
            "evaluate_length": self.lengths[-1],
            "evaluate_sequences": self.sequences,
            "seed": 0,
        }
        return decode(TaskRunConfig, data, CHOICES)


_TASKS = (  # the settings of docs/tracking.md
    Task(
        "s3",
        {"kind": "word_problem", "group": "S3"},
        width=64,
        layers=1,
        training={"steps": 500, "length": 128, "start": 2, "learning_rate": 3e-3},
        lengths=(128, 8192),
        sequences=32,
    ),
    Task(
        "parity",
        {"kind": "parity"},
        width=32,
        layers=1,
        training={"steps": 300, "length": 32, "start": 2},
        lengths=(32, 1024),
        sequences=64,
    ),
    Task(
        "recall",
        {"kind": "mqar", "symbols": 64, "pairs": 4, "random_filler": False},
        width=64,
        layers=2,
        training={
            "steps": 1200,
            "length": 32,
            "lengths": "full",
            "batch": 128,
            "max_batch": 128,
            "learning_rate": 1e-2,
        },
        lengths=(32,),
        sequences=256,
        conv=True,
    ),
)
TASKS = {task.name: task for task in _TASKS}
SIZES = {"heads": 4, "key_size": 16, "value_size": 16}  # for every mixer that has these options
OPTIONS: dict[str, dict[str, Any]] = {  # beside SIZES or instead of them; the forms made for tracking
    "mru": {"state_size": 64, "channels": 64, "builder": "reshape_identity", "norm": True},
    "gated_deltanet": {"negative_eigenvalues": True},
    "gated_deltanet2": {"negative_eigenvalues": True},
    "kda": {"negative_eigenvalues": True},
    "rnn": {"heads": 1, "head_size": 128},
    "gru": {"heads": 1, "head_size": 128},
    "lstm": {"heads": 1, "head_size": 128},
    "attention": {"positions": "rotary"},
    "conv": {"conv": 4},  # it is one
}
TRACKING: dict[str, dict[str, Any]] = {  # on s3 and parity alone
    "m2rnn": {
        "key_size": 2,
        "value_size": 64,
        "key_heads": 4,
        "query_heads": 4,
        "input_std": 0.25,
        "weight_kind": "orthogonal",
        "forget_start": "fast",
    },
}
TRAINING: dict[tuple[str, str], dict[str, Any]] = {  # of a mixer on a task
    ("m2rnn", "s3"): {"steps": 900, "length": 32, "threshold": 0.9, "clip": 0.3},
    ("m2rnn", "parity"): {"threshold": 0.9, "clip": 0.3},
}
COLUMNS = ("mixer", "nats", "s3_trained", "s3_longest", "parity_longest", "recall", "state_bytes", "s3_cpu_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the directory of the runs on tasks")
    parser.add_argument("--text", type=Path, help="the directory of benchmarks/shakespeare.py")
    parser.add_argument("--kinds", nargs="*", default=list(MIXERS), choices=MIXERS, metavar="KIND")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS, metavar="TASK")
    parser.add_argument("--write", action="store_true", help="write the table and figure of docs/landscape.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = read()
    for kind in given.kinds:
        row = rows.setdefault(kind, dict.fromkeys(COLUMNS, ""))
        row["mixer"] = kind
        if given.text:
            row["nats"] = loss(given.text, kind) or row["nats"]
        for name in given.tasks if given.out else ():
            row.update(run_once(given.out, name, kind))
            print(", ".join(f"{key} {value}" for key, value in row.items() if value != ""), flush=True)
    if given.out or given.text:
        keep(rows)
    if given.write:
        write_section(DOCS / "landscape.md", "results", table(rows))
        draw(rows, DOCS / "figures" / "landscape.png")


def options(kind: str, task: Task) -> dict[str, Any]:
    """The options of a mixer on a task: the common sizes where it has them, and what is its own."""
    own = {**SIZES, **({} if task.conv else {"conv": 0}), **OPTIONS.get(kind, {})}
    if not task.conv:
        own.update(TRACKING.get(kind, {}))
    known = {field.name for field in fields(MIXERS[kind])}
    return {name: value for name, value in own.items() if name in known}


def run_once(out: Path, name: str, kind: str) -> dict[str, Any]:
    """Trains and evaluates one mixer on one task, unless it has a result; its cells of the table."""
    directory, task = out / f"{name}-{kind}", TASKS[name]
    result = directory.with_suffix(".json")
    if not result.exists():
        shutil.rmtree(directory, ignore_errors=True)
        run = start(directory, task.config(kind))
        outcome = train(run)
        accuracies = [outcome.tracking.token_accuracy(length) for length in task.lengths]
        if name == "recall":
            accuracies = [outcome.tracking.accuracy(0, task.lengths[0])]
        found = {
            "accuracies": accuracies,
            "cpu_seconds": outcome.progress.cpu_seconds,
            "state_bytes": count(replace(run.config.model, vocabulary=2), task.lengths[0]).state_bytes,
        }
        result.write_text(json.dumps(found) + "\n")
    found = json.loads(result.read_text())
    percent = [f"{100 * a:.1f}" for a in found["accuracies"]]
    if name == "s3":
        cost = {"state_bytes": found["state_bytes"], "s3_cpu_seconds": f"{found['cpu_seconds']:.0f}"}
        return {"s3_trained": percent[0], "s3_longest": percent[1], **cost}
    return {"parity_longest": percent[1]} if name == "parity" else {"recall": percent[0]}


CONFIGS = {"attention": "rotary", "rnn": "rnn-noconv", "gru": "gru-noconv", "lstm": "lstm-noconv"}  # else as the kind


def loss(directory: Path, kind: str) -> str | None:
    """The loss of the mixer's config in windows of 64, nats per character, by benchmarks/shakespeare.py.

    Where it was not trained anew, that of the table in docs/shakespeare.md.
    """
    name = CONFIGS.get(kind, kind.replace("_", "-"))
    path = directory / f"{name}-0.json"
    if path.exists():
        return f"{json.loads(path.read_text())['nats']['64']:.3f}"
    row = re.search(
        rf"^\| {re.escape(name)} \| [\d,]+ \| ([\d.]+) \|", (DOCS / "shakespeare.md").read_text(), re.MULTILINE
    )
    return row and row[1]


def read() -> dict[str, dict[str, Any]]:
    if not RESULTS.exists():
        return {}
    with RESULTS.open(newline="") as file:
        return {row["mixer"]: row for row in csv.DictReader(file)}


def keep(rows: dict[str, dict[str, Any]]) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(by_loss(rows))


def by_loss(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Best loss first; those without one last, by name."""
    return sorted(rows.values(), key=lambda row: (float(row["nats"] or "inf"), row["mixer"]))


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    head = ["mixer", "nats", "S3 to 128", "S3 to 8,192", "parity to 1,024", "recall", "state, bytes", "S3, CPU s"]
    cells = [[row[column] or "–" for column in COLUMNS] for row in by_loss(rows)]
    for row in cells:
        row[6] = f"{int(row[6]):,}" if row[6] != "–" else row[6]
    return markdown(head, cells)


PANELS = (  # column, title, the number that knows nothing
    ("nats", "text, nats per character", None),
    ("s3_longest", "S3 to 8,192, % right", 100 / 6),
    ("parity_longest", "parity to 1,024, % right", 50),
    ("recall", "recall of four pairs, % right", 25),
)


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """A row per mixer, best on text first; a panel per measurement, with a line at guessing."""
    order = by_loss(rows)
    figure = new_figure(11, 0.24 * len(order) + 1.2)
    panels = figure.subplots(1, len(PANELS), sharey=True)
    places = range(len(order))
    for axes, (column, title, guess), colour in zip(panels, PANELS, COLOURS, strict=False):
        known = [(float(row[column]), place) for row, place in zip(order, places, strict=True) if row[column]]
        values, at = zip(*known, strict=True) if known else ((), ())
        left = guess if guess is not None else min(values, default=0) - 0.02
        axes.hlines(at, left, values, color=colour, alpha=0.4, linewidth=2)
        axes.plot(values, at, "o", color=colour, markersize=5)
        if guess is not None:
            axes.axvline(guess, color="0.6", linestyle="--", linewidth=1)
        axes.set_title(title, fontsize=9)
        axes.grid(axis="both", alpha=0.2)
    panels[0].set_yticks(places, [row["mixer"] for row in order], fontsize=8)
    panels[0].invert_yaxis()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
