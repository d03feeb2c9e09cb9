"""How far an MRU with error correction tracks, against the steps between corrections, on a group's word problem.

    python benchmarks/correction.py --out DIR [--group A5] [--every 4 16 64 0] [--seeds 0 1 2] [--figure FILE]

One thread. A plain MRU is trained per seed; then, for every interval between corrections, codebooks are made of its
states (`training.correction`) and the corrected model is evaluated. 0 stands for no correction. Finished trainings and
evaluations are not repeated. Longer intervals can be scanned in parallel over more steps; in shorter ones errors grow
less. With --trained the codebooks are trained as parameters, in one training per seed and interval.
"""

import argparse
import json
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from matrixstate.data.tasks import WordProblemConfig, group
from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure
from matrixstate.evaluation.tracking import track
from matrixstate.layers import MLPConfig
from matrixstate.mixers import MRUConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.training import TaskRunConfig, TaskTrainingConfig, start, train
from matrixstate.training.correction import find_codes, with_codebooks, with_correction
from matrixstate.training.tasks import load_task_model

LENGTH = 128  # of the longest training sequences
SEQUENCES = 64  # tested


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the directory of the runs and their results")
    parser.add_argument("--group", default="S3")
    parser.add_argument("--order", type=int, default=4, help="D, of each of four heads")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--start", type=int, default=2, help="length at which training begins")
    parser.add_argument("--longest", type=int, default=8192, help="length of the test")
    parser.add_argument("--every", type=int, nargs="*", default=[4, 8, 16, 32, 64, 128, 0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--trained", action="store_true", help="train the codebooks too")
    parser.add_argument("--figure", type=Path, help="draw the horizons there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [run_once(options, every, seed) for seed in options.seeds for every in options.every]
    print(f"| corrected every | seeds | to {LENGTH} | to {options.longest:,} | sequences without a mistake | CPU s |")
    print("|---:|---:|---:|---:|---:|---:|")
    for every in options.every:
        mine = [row for row in rows if row["every"] == every]
        cells = " | ".join(percent([row[name] for row in mine]) for name in ("short", "long", "whole"))
        seconds = statistics.mean(row["cpu_seconds"] for row in mine)
        print(f"| {every or 'never'} | {len(mine)} | {cells} | {seconds:.0f} |")
    if options.figure:
        draw(rows, options, options.figure)


def percent(shares: list[float]) -> str:
    """The mean of shares in percent, and their range if they differ."""
    low, mean, high = (f"{100 * n:.1f}" for n in (min(shares), statistics.mean(shares), max(shares)))
    return mean if low == high else f"{mean} ({low} to {high})"


def make_config(options: argparse.Namespace, every: int, seed: int) -> TaskRunConfig:
    """The config of an MRU whose correction is trained, or that has none."""
    size, width = 4 * options.order**2, options.width
    mixer = MRUConfig(heads=4, state_size=size, channels=size, builder="reshape_identity", norm=True)
    if every:
        mixer = replace(mixer, snap=every, codes=2 * group(options.group).order)
    model = ModelConfig(width=width, blocks=(BlockConfig(mixer, MLPConfig(width)),), tied=False)
    training = TaskTrainingConfig(steps=options.steps, length=LENGTH, start=options.start)
    return TaskRunConfig(
        "mru",
        model,
        WordProblemConfig(options.group),
        training,
        seed,
        evaluate_length=LENGTH,
        evaluate_sequences=SEQUENCES,
    )


def run_once(options: argparse.Namespace, every: int, seed: int) -> dict:
    """Trains, corrects and evaluates one model, unless it has a result."""
    kind = "trained" if options.trained else "fitted"
    result = options.out / f"{options.group}-{kind}-{every}-{seed}-{options.longest}.json"
    if result.exists():
        return json.loads(result.read_text())
    model, config, seconds = trained(options, every if options.trained else 0, seed)
    began = time.process_time()
    if every and not options.trained:
        model = corrected(model, config, every)
    lengths = tuple(LENGTH * 4**k for k in range(9) if LENGTH * 4**k < options.longest)
    fitting = time.process_time() - began
    found = track(model, config.data, (*lengths, options.longest), sequences=SEQUENCES)
    row = {
        "every": every,
        "seed": seed,
        "cpu_seconds": seconds + fitting,
        "short": found.token_accuracy(LENGTH),
        "long": found.token_accuracy(options.longest),
        "whole": found.all_correct(options.longest),
        "horizon": found.horizon(0.999),
    }
    result.write_text(json.dumps(row) + "\n")
    print(row, flush=True)
    return row


def trained(options: argparse.Namespace, every: int, seed: int) -> tuple[LanguageModel, TaskRunConfig, float]:
    """The trained model, its config, and the CPU seconds of its training."""
    directory = options.out / f"{options.group}-{every}-{seed}"
    if not (directory / "tracking.json").exists():
        shutil.rmtree(directory, ignore_errors=True)
        train(start(directory, make_config(options, every, seed)))
    seconds = json.loads((directory / "status.json").read_text())["cpu_seconds"]
    return *load_task_model(directory), seconds


def corrected(model: LanguageModel, config: TaskRunConfig, every: int) -> LanguageModel:
    """The model with codebooks made of its own states."""
    codes = find_codes(model, config.data, LENGTH, seed=config.seed)
    answers = len(next(iter(codes.values())))
    return with_codebooks(model, with_correction(config.final_model(), every, answers), codes)


def draw(rows: list[dict], options: argparse.Namespace, path: Path) -> None:
    """Plots the horizons of all seeds against the steps between corrections, on logarithmic axes."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    every = sorted({row["every"] for row in rows}, key=lambda n: n or 2**30)
    places = {n: place for place, n in enumerate(every)}
    middle = statistics.mean(options.seeds)
    for row in rows:
        shift = 0.08 * (row["seed"] - middle)
        axes.plot(places[row["every"]] + shift, max(row["horizon"], 1), "o", color=COLOURS[0], alpha=0.75)
    axes.axhline(LENGTH, color="0.5", linestyle="--", linewidth=1)
    axes.text(len(every) - 1, LENGTH * 1.1, "longest in training", ha="right", color="0.4")
    axes.axhline(options.longest, color="0.8", linewidth=1)
    axes.text(len(every) - 1, options.longest * 1.1, "tested to here", ha="right", color="0.4")
    axes.set_ylim(LENGTH / 1.5, options.longest * 1.6)
    axes.set_yscale("log", base=2)
    ticks = [LENGTH * 2**k for k in range((options.longest // LENGTH).bit_length())]
    axes.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks(range(len(every)), [str(n) if n else "never" for n in every])
    axes.set_xlabel("steps between corrections")
    axes.set_ylabel("length with the last eighth right by 99.9 %")
    axes.set_title(f"MRU on {options.group}: how far it tracks, one dot per seed")
    axes.grid(axis="y", alpha=0.25)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
