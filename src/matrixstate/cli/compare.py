"""`matrixstate compare`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tyro.conf import Positional, UseAppendAction

from matrixstate.cli.output import ProgressBar, in_bytes, print_json, print_table
from matrixstate.comparison.figures import draw_all
from matrixstate.comparison.matching import Matched
from matrixstate.comparison.pool import Interrupted, cores
from matrixstate.comparison.report import write_report
from matrixstate.comparison.results import RESULTS, Result, read_rows
from matrixstate.comparison.runner import Comparison, make_plan
from matrixstate.comparison.suite import SuiteConfig
from matrixstate.comparison.suite_files import load_suite, with_seeds
from matrixstate.comparison.summary import headlines, summarise
from matrixstate.errors import ConfigError, MissingExtra


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
        text: A file or folder of UTF-8 text, instead of the suite's.
        out: Where everything goes. Default: runs/NAME.
        jobs: How many trainings run at once, one thread each. Default: the cores this process may use.
        seeds: Short for --set seeds=N.
        set: An option of the suite, as in training.steps=100 or models.0.training.learning_rate=1e-3.
        dry_run: Meet the budget and print the sizes; train nothing.
        redraw: Make figures and report again from the CSV files alone.
        json: Print the result as one JSON object.
    """
    workers = check_jobs(jobs)
    if redraw:
        if text or set or seeds is not None or dry_run:
            raise ConfigError("--redraw: expected no --text, --set, --seeds or --dry-run")
        directory = suite if suite.is_dir() else out or Path("runs") / load_suite(suite).name
        return show(directory, json)
    if suite.is_dir():
        if text or set or out or dry_run:
            raise ConfigError(f"compare: expected no --text, --set, --out or --dry-run with the comparison {suite}")
        begun = Comparison.open(suite)
        return carry_out(begun.extend(with_seeds(begun.suite, seeds)), workers, json, f"matrixstate compare {suite}")
    wanted = with_seeds(load_suite(suite, set, text), seeds)
    directory = out or Path("runs") / wanted.name
    if dry_run:
        _print_sizes(wanted, make_plan(wanted).sizes, json)
        return 0
    return carry_out(prepare(directory, wanted), workers, json, f"matrixstate compare {directory}")


def check_jobs(jobs: int | None) -> int:
    """How many workers; raises ConfigError for fewer than one."""
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs: expected at least 1, got {jobs}")
    return jobs or cores()


def prepare(directory: Path, suite: SuiteConfig) -> Comparison:
    """The comparison in `directory`, new or begun with the same suite."""
    if (directory / "suite.yaml").exists():
        return Comparison.open(directory).extend(suite)
    return Comparison.create(directory, make_plan(suite))


def carry_out(comparison: Comparison, workers: int, json: bool, again: str) -> int:
    """Does what is left of a comparison and shows it; exit status 128 + signal if it was stopped."""
    try:
        train_all(comparison, workers, quiet=json)
    except Interrupted as stop:
        print(f"stopped; nothing is lost. Go on with: {again}", file=sys.stderr)
        return 128 + stop.signal
    return show(comparison.directory, json)


def train_all(comparison: Comparison, workers: int, quiet: bool) -> None:
    """Runs the jobs that are left, with a bar on standard error. Raises Interrupted when a signal stopped it."""
    if not quiet:
        _print_sizes(comparison.suite, comparison.sizes, False)
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


def _print_sizes(suite: SuiteConfig, sizes: Sequence[Matched], json: bool) -> None:
    by = "nothing" if suite.match is None else suite.match.by
    if json:
        names = ("entry", "varied", "value", "steps", "tokens", "parameters", "parameters_without_embeddings")
        more = ("state_bytes", "flops_per_token", "flops")
        print_json({"matched": by, "models": [{n: getattr(one, n) for n in (*names, *more)} for one in sizes]})
        return
    varied = sorted({one.varied for one in sizes if one.value is not None})
    tokens = sorted({one.tokens for one in sizes})
    title = f"Matched by {by.replace('_', ' ')}" if suite.match else "Not matched to any budget"
    title += "".join(f"\nvaried: {path}" for path in varied)
    most = "at most " if suite.kind == "task" else ""
    title += f"\n{most}{tokens[0]:,} tokens each" if len(tokens) == 1 else ""
    print_table(
        ("entry", *(["set to"] if varied else []), "parameters", "w/o embed.", "state", "MFLOPs/token", "steps"),
        [
            (
                one.title,
                *(["" if one.value is None else f"{one.value:,}"] if varied else []),
                f"{one.parameters:,}",
                f"{one.parameters_without_embeddings:,}",
                in_bytes(one.state_bytes),
                f"{one.flops_per_token / 1e6:,.3g}",
                f"{one.steps:,}",
            )
            for one in sizes
        ],
        title,
    )


def show(directory: Path, json: bool, notes: Sequence[str] = ()) -> int:
    """Draws the figures, writes the report and prints the results, from the CSV files alone."""
    rows = read_rows(directory / RESULTS, Result)
    try:
        figures = draw_all(directory)
    except MissingExtra as missing:
        figures = []
        print(f"no figures: {missing}", file=sys.stderr)
    report = write_report(directory, figures, notes)
    lines = summarise(rows)
    if json:
        print_json(
            {
                "report": str(report),
                "findings": [*notes, *headlines(rows)],
                "models": [
                    {"entry": line.first.entry, "mean": line.mean, "values": line.values, "failed": len(line.failed)}
                    for line in lines
                ],
            }
        )
        return 0
    seeds = sorted({row.seed for row in rows})
    if rows:
        print_table(
            ("entry", f"{rows[0].metric}", "interval", *(f"seed {seed}" for seed in seeds)),
            [
                (
                    line.title,
                    "" if line.mean is None else f"{line.mean:.4f}",
                    "" if line.interval is None else f"{line.interval.low:.4f}-{line.interval.high:.4f}",
                    *(f"{line.values[seed]:.4f}" if seed in line.values else "failed" for seed in seeds),
                )
                for line in lines
            ],
            rows[0].suite,
        )
    for sentence in (*notes, *headlines(rows)):
        print(f"- {sentence}")
    print(f"report: {report}")
    return 0
