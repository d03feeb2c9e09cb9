"""Prints the sizes and the results of a comparison, for `matrixstate compare` and `matrixstate reproduce`."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from matrixstate.cli.output import in_bytes, print_json, print_table
from matrixstate.comparison.reporting.figures import draw_all
from matrixstate.comparison.reporting.overview import draw_overview
from matrixstate.comparison.reporting.report import write_report, write_set_report
from matrixstate.comparison.reporting.summary import headlines, short_finding, summarise
from matrixstate.comparison.running.comparison import Comparison
from matrixstate.comparison.running.comparison_set import PARTS, ComparisonSet, is_set
from matrixstate.comparison.running.tables import RESULTS, PartResult, Result, by_part, read_rows
from matrixstate.comparison.suites.plan import Plan, SetPlan
from matrixstate.errors import MissingExtra


def print_sizes(planned: Plan | Comparison | SetPlan | ComparisonSet, json: bool) -> None:
    """Prints the sizes with which the entries meet the budget, for each part of several."""
    if isinstance(planned, SetPlan | ComparisonSet):
        if json:
            print_json({"parts": {name: _sizes(part) for name, part in planned.parts.items()}})
            return
        for name, part in planned.parts.items():
            _print_sizes(part, f"{part.suite.title or name}. ")
    elif json:
        print_json(_sizes(planned))
    else:
        _print_sizes(planned)


def _sizes(planned: Plan | Comparison) -> dict[str, Any]:
    names = ("entry", "varied", "value", "steps", "tokens", "parameters", "parameters_without_embeddings")
    more = ("state_bytes", "flops_per_token", "flops")
    by = "nothing" if planned.suite.match is None else planned.suite.match.by
    return {"matched": by, "models": [{n: getattr(one, n) for n in (*names, *more)} for one in planned.sizes]}


def _print_sizes(planned: Plan | Comparison, head: str = "") -> None:
    suite, sizes = planned.suite, planned.sizes
    varied = sorted({one.varied for one in sizes if one.value is not None})
    tokens = sorted({one.tokens for one in sizes})
    title = head + (f"Matched by {suite.match.by.replace('_', ' ')}" if suite.match else "Not matched to any budget")
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
    """Draws the figures, writes the report and prints the results, all from the CSV files. Returns the exit status."""
    report = make_report(directory, notes)
    if is_set(directory):
        return _show_set(by_part(read_rows(directory / RESULTS, PartResult)), report, json)
    rows = read_rows(directory / RESULTS, Result)
    if json:
        print_json({"report": str(report), **_results(rows, notes)})
        return 0
    _print_results(rows)
    for sentence in (*notes, *headlines(rows)):
        print(f"- {sentence}")
    print(f"report: {report}")
    return 0


def make_report(directory: Path, notes: Sequence[str] = ()) -> Path:
    """Draws the figures, if matplotlib is installed, and writes the report, all from the CSV files.

    Args:
        directory: of the comparison.
        notes: sentences above the findings; only of a comparison that is not in parts.

    Returns:
        The path of the report.
    """
    if not is_set(directory):
        return write_report(directory, _draw_if_possible(lambda: draw_all(directory)), notes)
    places = {name: directory / PARTS / name for name in by_part(read_rows(directory / RESULTS, PartResult))}

    def draw() -> list[list[Path]]:
        return [draw_overview(directory), *map(draw_all, places.values())]

    overview, *figures = _draw_if_possible(draw) or [[]] * (len(places) + 1)
    return write_set_report(directory, overview, places, dict(zip(places, figures, strict=True)))


def _show_set(rows: dict[str, list[PartResult]], report: Path, json: bool) -> int:
    if json:
        print_json({"report": str(report), "parts": {name: _results(mine) for name, mine in rows.items()}})
        return 0
    for mine in rows.values():
        _print_results(mine)
    for mine in rows.values():
        print(f"- {mine[0].suite}: {short_finding(mine)}")
    print(f"report: {report}")
    return 0


T = TypeVar("T")


def _draw_if_possible(draw: Callable[[], list[T]]) -> list[T]:
    """The files that `draw` wrote; without matplotlib none, with a message on standard error."""
    try:
        return draw()
    except MissingExtra as missing:
        print(f"no figures: {missing}", file=sys.stderr)
        return []


def _results(rows: Sequence[Result], notes: Sequence[str] = ()) -> dict[str, Any]:
    models = [
        {"entry": line.first.entry, "mean": line.mean, "values": line.values, "failed": len(line.failed)}
        for line in summarise(rows)
    ]
    return {"findings": [*notes, *headlines(rows)], "models": models}


def _print_results(rows: Sequence[Result]) -> None:
    if not rows:
        return
    seeds = sorted({row.seed for row in rows})
    print_table(
        ("entry", f"{rows[0].metric}", "interval", *(f"seed {seed}" for seed in seeds)),
        [
            (
                line.title,
                "" if line.mean is None else f"{line.mean:.4f}",
                "" if line.interval is None else f"{line.interval.low:.4f}-{line.interval.high:.4f}",
                *(f"{line.values[seed]:.4f}" if seed in line.values else "failed" for seed in seeds),
            )
            for line in summarise(rows)
        ],
        rows[0].suite,
    )
