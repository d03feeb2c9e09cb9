"""How often an MRU must correct its state: the horizon on a group's word problem against the steps between corrections.

    python benchmarks/correction.py --out DIR [--group S3] [--every 4 16 64 0] [--seeds 0 1 2] [--figure FILE]

One thread. 0 stands for never. Trainings that are finished are not repeated. A long interval leaves more steps that can
be scanned in parallel; a short one leaves less time for errors to grow.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from matrixstate.data.tasks import WordProblemConfig
from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure
from matrixstate.evaluation.tracking import Tracking
from matrixstate.layers import MLPConfig, MRUConfig
from matrixstate.models import BlockConfig, ModelConfig
from matrixstate.training.tasks import TaskRunConfig, TaskTrainingConfig, train_task

LENGTH, LONGEST = 128, 8192  # of training and of the evaluation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the directory of the runs and their results")
    parser.add_argument("--group", default="S3")
    parser.add_argument("--order", type=int, default=4, help="D, of each of four heads")
    parser.add_argument("--codes", type=int, default=16)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--every", type=int, nargs="*", default=[4, 8, 16, 32, 64, 0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--figure", type=Path, help="draw the horizons there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [run_once(options, every, seed) for seed in options.seeds for every in options.every]
    print("| corrected every | seed | solved at CPU s | to 128 | to 8,192 | sequences without a mistake | T99.9 |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for row in sorted(rows, key=lambda row: (row["every"] or LONGEST, row["seed"])):
        solved = "–" if row["solved_at"] is None else f"{row['solved_at'][1]:.0f}"
        cells = f"{row['short']:.4f} | {row['long']:.4f} | {row['whole']:.2f} | {row['horizon']:,}"
        print(f"| {row['every'] or 'never'} | {row['seed']} | {solved} | {cells} |")
    if options.figure:
        draw(rows, options.group, options.figure)


def run_once(options: argparse.Namespace, every: int, seed: int) -> dict:
    """Trains and measures one model, unless its result is there."""
    directory = options.out / f"{options.group}-{every}-{seed}"
    result = directory.with_suffix(".json")
    if result.exists():
        return json.loads(result.read_text())
    shutil.rmtree(directory, ignore_errors=True)
    size, width = 4 * options.order**2, options.width
    mixer = MRUConfig(
        heads=4, state_size=size, channels=size, builder="reshape_identity", norm=True, snap=every, codes=options.codes
    )
    model = ModelConfig(width=width, blocks=(BlockConfig(mixer, MLPConfig(width)),), tied=False)
    training = TaskTrainingConfig(steps=options.steps, length=LENGTH)
    config = TaskRunConfig("mru", model, WordProblemConfig(options.group), training, LONGEST, 64, seed)
    outcome = train_task(directory, config)
    tracking: Tracking = outcome.tracking
    row = {
        "every": every,
        "seed": seed,
        "solved_at": outcome.solved_at,
        "cpu_seconds": outcome.cpu_seconds,
        "short": tracking.token_accuracy(LENGTH),
        "long": tracking.token_accuracy(LONGEST),
        "whole": tracking.all_correct(LONGEST),
        "horizon": tracking.horizon(0.999),
    }
    result.write_text(json.dumps(row) + "\n")
    print(row, flush=True)
    return row


def draw(rows: list[dict], group: str, path: Path) -> None:
    """Horizons of all seeds against the steps between corrections, both on logarithmic axes."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    every = sorted({row["every"] for row in rows}, key=lambda n: n or LONGEST)
    places = {n: place for place, n in enumerate(every)}
    for row in rows:
        shift = 0.08 * (row["seed"] - 1)
        axes.plot(places[row["every"]] + shift, max(row["horizon"], 1), "o", color=COLOURS[0], alpha=0.75)
    axes.axhline(LENGTH, color="0.5", linestyle="--", linewidth=1)
    axes.text(len(every) - 1, LENGTH * 1.1, "longest in training", ha="right", color="0.4")
    axes.axhline(LONGEST, color="0.8", linewidth=1)
    axes.set_yscale("log", base=2)
    axes.set_xticks(range(len(every)), [str(n) if n else "never" for n in every])
    axes.set_xlabel("steps between corrections")
    axes.set_ylabel("length with the last eighth right by 99.9 %")
    axes.set_title(f"MRU on {group}: how far it tracks, one dot per seed")
    axes.grid(axis="y", alpha=0.25)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
