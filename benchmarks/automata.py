"""Four automata at the protocol of PD-SSM's table: trained on lengths 3 to 40, tested on every length from 40 to 256.

    python benchmarks/automata.py --out DIR [--tasks parity] [--models gru m2rnn mru mru-large] [--seeds 0 1 2 3 4]

One thread; models of one block of width 64. Trainings that are finished are not repeated. Training asks after every
step where the published one asks after the last, and its lengths grow from 3 to 40 as they are mastered; both make it
easier. The test is the same.
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from matrixstate.data.tasks import TASKS
from matrixstate.layers import GRUConfig, M2RNNConfig, MixerConfig, MLPConfig, MRUConfig
from matrixstate.models import BlockConfig, ModelConfig
from matrixstate.training.tasks import TaskRunConfig, TaskTrainingConfig, train_task

TRAINED, TESTED = 40, 256
NAMES = ("cycle_navigation", "even_pairs", "modular_arithmetic", "parity")
MRU = {"heads": 4, "builder": "reshape_identity", "norm": True}
LARGE = {**MRU, "state_size": 4 * 12**2, "channels": 192, "conv": 4}  # heads of order 12
MODELS: dict[str, MixerConfig] = {
    "gru": GRUConfig(head_size=128, conv=0),
    "m2rnn": M2RNNConfig(
        heads=4, key_size=2, value_size=64, key_heads=4, query_heads=4, conv=0, input_std=0.25,
        weight_kind="orthogonal", forget_start="fast",
    ),
    "mru": MRUConfig(state_size=4 * 4**2, channels=64, **MRU),
    "mru-large": MRUConfig(**LARGE),
    "mru-large-corrected": MRUConfig(**LARGE, snap=8, codes=512, code_groups=4),
}  # fmt: skip


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
    """Mean and range of the accuracies, in percent."""
    mean = f"{100 * statistics.mean(accuracies):.1f}"
    return f"{mean} ({100 * min(accuracies):.1f} to {100 * max(accuracies):.1f})"


def run_once(out: Path, task: str, model: str, seed: int, steps: int) -> dict:
    """Trains and measures one model, unless its result is there."""
    directory = out / f"{task}-{model}-{seed}"
    result = directory.with_suffix(".json")
    if result.exists():
        return json.loads(result.read_text())
    shutil.rmtree(directory, ignore_errors=True)
    sizes = ModelConfig(width=64, blocks=(BlockConfig(MODELS[model], MLPConfig(64)),), tied=False)
    options = {"clip": 0.3, "threshold": 0.9} if model == "m2rnn" else {}
    options |= {"codebooks": "clusters"} if model.endswith("corrected") else {}
    training = TaskTrainingConfig(steps=steps, length=TRAINED, start=3, batch=128, **options)
    outcome = train_task(directory, TaskRunConfig(model, sizes, TASKS[task](), training, TESTED, 256, seed))
    accuracy = outcome.tracking.accuracy(TRAINED - 1, TESTED)
    result.write_text(json.dumps({"accuracy": accuracy, "cpu_seconds": outcome.cpu_seconds}) + "\n")
    return {"accuracy": accuracy, "cpu_seconds": outcome.cpu_seconds}


if __name__ == "__main__":
    main()
