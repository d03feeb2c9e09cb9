"""Four automata by the protocol of PD-SSM's table: trained on lengths 3 to 40, tested on every length from 40 to 256.

    python benchmarks/automata.py --out DIR [--tasks parity] [--models gru m2rnn mru] [--seeds 0 1 2 3 4]

One thread; the models of configs/compare/automata.yaml. Finished trainings are not repeated. Training has a target
at every step, where the published one has it at the last only, and a curriculum of lengths from 3 to 40; both make it
easier. The evaluation is the same.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from matrixstate.configs import decode, load_yaml
from matrixstate.training import CHOICES, TaskRunConfig, start, train

TRAINED, TESTED = 40, 256
SUITE = load_yaml(Path(__file__).resolve().parents[1] / "configs" / "compare" / "automata.yaml")
NAMES = tuple(SUITE["parts"])
MODELS = {entry["name"]: entry for entry in SUITE["models"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the directory of the runs and their results")
    parser.add_argument("--tasks", nargs="*", default=NAMES, choices=NAMES, metavar="TASK")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS, metavar="MODEL")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | " + " | ".join(name.replace("_", " ") for name in options.tasks) + " | CPU s a run |")
    print("|---|" + "---:|" * (len(options.tasks) + 1))
    for model in options.models:
        cells, seconds = [], []
        for task in options.tasks:
            rows = [run_once(options.out, task, model, seed, options.steps) for seed in options.seeds]
            cells.append(cell([row["accuracy"] for row in rows]))
            seconds += [row["cpu_seconds"] for row in rows]
        print(f"| {model} | " + " | ".join(cells) + f" | {statistics.mean(seconds):.0f} |", flush=True)


def cell(accuracies: Sequence[float]) -> str:
    """A cell of the table: mean and range of the accuracies, in percent."""
    mean = f"{100 * statistics.mean(accuracies):.1f}"
    return f"{mean} ({100 * min(accuracies):.1f} to {100 * max(accuracies):.1f})"


def run_once(out: Path, task: str, model: str, seed: int, steps: int) -> dict:
    """Trains and evaluates one model, unless it has a result."""
    directory = out / f"{task}-{model}-{seed}"
    result = directory.with_suffix(".json")
    if result.exists():
        return json.loads(result.read_text())
    shutil.rmtree(directory, ignore_errors=True)
    entry = MODELS[model]
    data = {
        "name": model,
        "model": entry["model"],
        "data": {"kind": task},
        "training": {**SUITE["training"], "length": TRAINED, "steps": steps, **entry.get("training", {})},
        "evaluate_length": TESTED,
        "evaluate_sequences": 256,
        "seed": seed,
    }
    outcome = train(start(directory, decode(TaskRunConfig, data, CHOICES)))
    accuracy = outcome.tracking.accuracy(TRAINED - 1, TESTED)
    result.write_text(json.dumps({"accuracy": accuracy, "cpu_seconds": outcome.progress.cpu_seconds}) + "\n")
    return {"accuracy": accuracy, "cpu_seconds": outcome.progress.cpu_seconds}


if __name__ == "__main__":
    main()
