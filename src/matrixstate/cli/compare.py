"""`matrixstate compare`."""

import sys
from pathlib import Path

import torch
from tyro.conf import Positional, UseAppendAction

from matrixstate.cli.compare_show import print_sizes, show
from matrixstate.cli.output import ComparisonProgress
from matrixstate.comparison.running.comparison import Comparison
from matrixstate.comparison.running.comparison_set import ComparisonSet, open_any, prepare
from matrixstate.comparison.running.pool import Interrupted, cores
from matrixstate.comparison.suites.files import with_seeds
from matrixstate.comparison.suites.plan import plan_any
from matrixstate.comparison.suites.set import SuiteSet, load_any
from matrixstate.comparison.suites.suite import SuiteConfig
from matrixstate.devices import find_device
from matrixstate.errors import ConfigError


def compare(
    suite: Positional[Path],
    *,
    text: UseAppendAction[tuple[Path, ...]] = (),
    out: Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
    seeds: int | None = None,
    set: UseAppendAction[tuple[str, ...]] = (),
    dry_run: bool = False,
    redraw: bool = False,
    json: bool = False,
) -> int:
    """Train models at a matched budget, over several seeds, and report the differences.

    Writes report.html, CSV files and figures. Finished trainings are not repeated: run the same command again to resume
    after Ctrl-C, or with more --seeds to add some.

    Args:
        suite: The YAML file of the suite, or the directory of a comparison to resume.
        text: A file or folder of UTF-8 text that replaces the suite's; of several parts, one must be on a text.
        out: The output directory. Default: runs/NAME.
        device: "auto" (the GPU if there is one), "cpu", "cuda", "cuda:N" or "mps". All
            trainings of a comparison run on one kind of device.
        jobs: Number of trainings that run at once, one thread each. Default: the cores this process may use, or 1 on
            a GPU.
        seeds: Short for --set seeds=N.
        set: An option of the suite, as in training.steps=100, models.0.training.learning_rate=1e-3 or
            parts.NAME.training.length=40.
        dry_run: Print the sizes that meet the budget; train nothing.
        redraw: Only redraw figures and report, from the CSV files.
        json: Print the result as one JSON object.
    """
    place = find_device(device)
    workers = check_jobs(jobs, place)
    if redraw:
        if text or set or seeds is not None or dry_run:
            raise ConfigError("--redraw: expected no --text, --set, --seeds or --dry-run")
        directory = suite if suite.is_dir() else out or Path("runs") / load_any(suite).name
        return show(directory, json)
    if suite.is_dir():
        if text or set or out or dry_run:
            raise ConfigError(f"compare: expected no --text, --set, --out or --dry-run with the comparison {suite}")
        existing = prepare(suite, _with_seeds(open_any(suite).suite, seeds), place)
        return run_and_show(existing, workers, json, f"matrixstate compare {suite}")
    wanted = _with_seeds(load_any(suite, set, text), seeds)
    directory = out or Path("runs") / wanted.name
    if dry_run:
        print_sizes(plan_any(wanted, place), json)
        return 0
    return run_and_show(prepare(directory, wanted, place), workers, json, f"matrixstate compare {directory}")


def _with_seeds(suite: SuiteConfig | SuiteSet, seeds: int | None) -> SuiteConfig | SuiteSet:
    return suite.with_seeds(seeds) if isinstance(suite, SuiteSet) else with_seeds(suite, seeds)


def check_jobs(jobs: int | None, device: torch.device) -> int:
    """The number of workers; jobs on a GPU share it. Raises ConfigError for fewer than one."""
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs: expected at least 1, got {jobs}")
    return jobs or (cores() if device.type == "cpu" else 1)


def run_and_show(comparison: Comparison | ComparisonSet, workers: int, json: bool, command: str) -> int:
    """Runs the unfinished jobs of a comparison and shows its results. Returns 128 + signal if it was stopped."""
    try:
        train_all(comparison, workers, quiet=json)
    except Interrupted as stop:
        print(f"stopped; nothing is lost. Resume with: {command}", file=sys.stderr)
        return 128 + stop.signal
    return show(comparison.directory, json)


def train_all(comparison: Comparison | ComparisonSet, workers: int, quiet: bool) -> None:
    """Runs the unfinished jobs with a progress bar on standard error. Raises Interrupted when a signal stopped them."""
    if not quiet:
        print_sizes(comparison, False)
    with ComparisonProgress() as progress:
        comparison.run(workers, progress)
