"""`matrixstate compare`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tyro.conf import Positional, UseAppendAction

from matrixstate.cli.compare_show import print_sizes, show
from matrixstate.cli.output import ProgressBar
from matrixstate.comparison.running.comparison import Comparison
from matrixstate.comparison.running.comparison_set import ComparisonSet, open_any, prepare
from matrixstate.comparison.running.pool import Interrupted, cores
from matrixstate.comparison.suites.files import with_seeds
from matrixstate.comparison.suites.plan import plan_any
from matrixstate.comparison.suites.set import SuiteSet, load_any
from matrixstate.comparison.suites.suite import SuiteConfig
from matrixstate.errors import ConfigError


def compare(
    suite: Positional[Path],
    *,
    text: UseAppendAction[tuple[Path, ...]] = (),
    out: Path | None = None,
    jobs: int | None = None,
    seeds: int | None = None,
    set: UseAppendAction[tuple[str, ...]] = (),
    dry_run: bool = False,
    redraw: bool = False,
    json: bool = False,
) -> int:
    """Train models side by side at a matched budget, over several seeds, and report what differs.

    Ends in report.html, CSV files and figures. Trainings that are finished are never repeated: give the same command
    again to go on after Ctrl-C, or with more --seeds.

    Args:
        suite: The YAML file of the comparison, or the directory of one that was begun.
        text: A file or folder of UTF-8 text, instead of the suite's, or of its one part that learns a text.
        out: Where everything goes. Default: runs/NAME.
        jobs: How many trainings run at once, one thread each. Default: the cores this process may use.
        seeds: Short for --set seeds=N.
        set: An option of the suite, as in training.steps=100, models.0.training.learning_rate=1e-3 or
            parts.NAME.training.length=40.
        dry_run: Meet the budget and print the sizes; train nothing.
        redraw: Make figures and report again from the CSV files alone.
        json: Print the result as one JSON object.
    """
    workers = check_jobs(jobs)
    if redraw:
        if text or set or seeds is not None or dry_run:
            raise ConfigError("--redraw: expected no --text, --set, --seeds or --dry-run")
        directory = suite if suite.is_dir() else out or Path("runs") / load_any(suite).name
        return show(directory, json)
    if suite.is_dir():
        if text or set or out or dry_run:
            raise ConfigError(f"compare: expected no --text, --set, --out or --dry-run with the comparison {suite}")
        begun = prepare(suite, _with_seeds(open_any(suite).suite, seeds))
        return carry_out(begun, workers, json, f"matrixstate compare {suite}")
    wanted = _with_seeds(load_any(suite, set, text), seeds)
    directory = out or Path("runs") / wanted.name
    if dry_run:
        print_sizes(plan_any(wanted), json)
        return 0
    return carry_out(prepare(directory, wanted), workers, json, f"matrixstate compare {directory}")


def _with_seeds(suite: SuiteConfig | SuiteSet, seeds: int | None) -> SuiteConfig | SuiteSet:
    return suite.with_seeds(seeds) if isinstance(suite, SuiteSet) else with_seeds(suite, seeds)


def check_jobs(jobs: int | None) -> int:
    """How many workers; raises ConfigError for fewer than one."""
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs: expected at least 1, got {jobs}")
    return jobs or cores()


def carry_out(comparison: Comparison | ComparisonSet, workers: int, json: bool, again: str) -> int:
    """Does what is left of a comparison and shows it; exit status 128 + signal if it was stopped."""
    try:
        train_all(comparison, workers, quiet=json)
    except Interrupted as stop:
        print(f"stopped; nothing is lost. Go on with: {again}", file=sys.stderr)
        return 128 + stop.signal
    return show(comparison.directory, json)


def train_all(comparison: Comparison | ComparisonSet, workers: int, quiet: bool) -> None:
    """Runs the jobs that are left, with a bar on standard error. Raises Interrupted when a signal stopped it."""
    if not quiet:
        print_sizes(comparison, False)
    with _Progress() as progress:
        comparison.run(workers, progress)


class _Progress:
    """Shows what runs, how much is done and how long it will take."""

    def __init__(self) -> None:
        self._bar: ProgressBar | None = None
        self._done = self._jobs = self._steps = 0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.__exit__()

    def begin(self, what: str, jobs: int, finished: int, steps: int) -> None:
        self.__exit__()
        self._bar, self._jobs, self._done, self._steps = None, jobs, finished, 0
        if steps:
            self._bar = ProgressBar(what, steps).__enter__()

    def update(self, steps: int, running: Sequence[str]) -> None:
        self._steps = max(steps, self._steps)
        if self._bar is not None:
            self._bar.update(self._steps, f"{self._done} of {self._jobs} done; {', '.join(running)}")

    def ended(self, name: str, found: dict[str, Any]) -> None:
        self._done += 1
        if found.get("status") == "failed":
            print(f"{name}: failed: {found.get('reason')}", file=sys.stderr)
