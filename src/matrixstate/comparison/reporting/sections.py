"""The sections of a report on one comparison, as HTML made of the CSV files."""

import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matrixstate.comparison.reporting.figures import CAPTIONS
from matrixstate.comparison.reporting.page import bullets, figure, table
from matrixstate.comparison.reporting.summary import METHODS, Line, headlines, summarise
from matrixstate.comparison.running.jobs import read_json
from matrixstate.comparison.running.tables import MATCHING, RESULTS, TRIALS, Result, Size, Trial, read_rows


def findings(
    directory: Path, figures: Sequence[Path], notes: Sequence[str] = (), level: int = 2, prefix: str = ""
) -> list[str]:
    """Findings, results, figures, budget and learning rates, under headings of that level.

    `notes` precede them; `prefix` makes the ids of the figures unique on the page. Raises CheckpointError for missing
    or damaged CSV files.
    """
    rows = read_rows(directory / RESULTS, Result)
    sizes, trials = read_rows(directory / MATCHING, Size), read_rows(directory / TRIALS, Trial)
    return [
        f'<p class="soft">{escape(_about(rows, sizes))}</p>',
        *(f"<p{_weight(note)}>{escape(note)}</p>" for note in notes),
        bullets("findings", headlines(rows)),
        heading("Results", level),
        _results(rows),
        *(figure(path, CAPTIONS.get(path.stem, path.stem), f"{prefix}{path.stem}") for path in figures),
        heading("The budget", level),
        _matching(sizes, rows),
        heading("Learning rates", level),
        _trials(trials, rows),
    ]


def background(directory: Path) -> list[str]:
    """How to read the numbers, the machine they are from, and the suite."""
    return [
        heading("How to read this", 2),
        bullets("methods", METHODS),
        heading("Environment", 2),
        _environment(directory),
    ]


def heading(text: str, level: int) -> str:
    """A heading; level 1 is the title of the page."""
    return f"<h{level}>{escape(text)}</h{level}>"


def _weight(note: str) -> str:
    return ' class="verdict"' if note.startswith("Verdict") else ""


def _about(rows: Sequence[Result], sizes: Sequence[Size]) -> str:
    seeds = len({row.seed for row in rows})
    budget = next((size.budget for size in sizes if size.budget), "")
    matched = f"at matched {BUDGETS[budget]}" if budget else "not matched to any budget"
    return f"{len(sizes)} entries, {seeds} seed{'s' if seeds != 1 else ''} each, {matched}."


BUDGETS = {
    "parameters": "parameters",
    "state_bytes": "bytes of state",
    "flops": "FLOPs of training",
    "wall_time": "training time",
}


def _results(rows: Sequence[Result]) -> str:
    if not rows:
        return "<p>None.</p>"
    lines = summarise(rows)
    columns = ["entry", f"{rows[0].metric}, mean", "interval", "seeds", "against the control", "item error"]
    columns += ["solved", "CPU s to 99 % (seeds)"] if rows[0].kind == "task" else []
    text = '<p class="soft">The shaded row is the control; n.d.s.: no difference shown.</p>'
    return table(columns, [_result(line) for line in lines], [line.is_control for line in lines]) + text


def _result(line: Line) -> list[str]:
    interval, gap = line.interval, line.difference
    failed = f" ({len(line.failed)} failed)" if line.failed else ""
    against = "control" if line.is_control else "–"
    if gap is not None:
        against = f"{gap.mean:+.4f}"
        if gap.interval is not None:
            against += f" [{gap.interval.low:+.4f}, {gap.interval.high:+.4f}]" + ("" if gap.shown else " n.d.s.")
    return [
        line.title,
        "–" if line.mean is None else f"{line.mean:.4f}",
        "–" if interval is None else f"[{interval.low:.4f}, {interval.high:.4f}]",
        f"{len(line.values)}{failed}",
        against,
        "–" if line.item_error is None else f"{line.item_error:.4f}",
        *([f"{line.solved[0]} of {line.solved[1]}", _solve_seconds(line)] if line.solved is not None else []),
    ]


def _solve_seconds(line: Line) -> str:
    """Mean CPU seconds to an accuracy of 99 % at the full training length, over the seeds that reached it."""
    found = line.solve_seconds
    return f"{statistics.mean(found):.1f} ({len(found)})" if found else "–"


def _matching(sizes: Sequence[Size], rows: Sequence[Result]) -> str:
    budget = next((size.budget for size in sizes if size.budget), "")
    paths = ", ".join(sorted({size.varied for size in sizes if size.number is not None}))
    text = f"Matched: {BUDGETS[budget]}." if budget else "Nothing was matched: every entry was trained as configured."
    text += f" Varied to meet it: {paths}." if paths else ""
    state = f"state bytes after {rows[0].train_length:,} tokens" if rows else "state bytes"
    columns = ["entry", "set to", "parameters", "without embeddings", state, "FLOPs per token"]
    body = [[size.title, *_cost(size, [row for row in rows if row.entry == size.entry])] for size in sizes]
    return f"<p>{escape(text)}</p>" + table([*columns, "steps", "tokens", "total FLOPs", "CPU seconds"], body)


def _cost(size: Size, rows: Sequence[Result]) -> list[str]:
    seconds = [row.cpu_seconds for row in rows if row.cpu_seconds is not None]
    return [
        "–" if size.number is None else f"{size.number:,}",
        *(f"{n:,}" for n in (size.parameters, size.parameters_without_embeddings, size.state_bytes)),
        *(f"{n:,}" for n in (size.flops_per_token, size.steps, size.tokens)),
        f"{size.flops:.3g}",
        f"{sum(seconds) / len(seconds):,.1f}" if seconds else "–",
    ]


def _trials(trials: Sequence[Trial], rows: Sequence[Result]) -> str:
    if not trials:
        rates = {row.title: row.learning_rate for row in rows}
        given = ", ".join(f"{title} {rate:g}" for title, rate in rates.items() if rate is not None)
        return f"<p>There were no trials; the rates of the suite were used: {escape(given)}.</p>"
    metric = rows[0].metric if rows else "value"
    tried = sorted({trial.learning_rate for trial in trials})
    body = []
    for entry in dict.fromkeys(trial.entry for trial in trials):
        mine = {trial.learning_rate: trial for trial in trials if trial.entry == entry}
        body.append([next(iter(mine.values())).title, *(_trial(mine.get(rate)) for rate in tried)])
    edges = {t.title for t in trials if t.chosen and t.learning_rate in (tried[0], tried[-1])}
    text = f"Every entry was trained at the same rates with seed {trials[0].seed}; {metric}, ✓ marks the chosen rate."
    warned = f" Best at the smallest or largest rate, so a better one may be beyond it: {', '.join(sorted(edges))}."
    return f"<p>{escape(text + (warned if edges else ''))}</p>" + table(
        ["entry", *(f"{rate:g}" for rate in tried)], body
    )


def _trial(trial: Trial | None) -> str:
    if trial is None:
        return "–"
    value = "failed" if trial.value is None else f"{trial.value:.4f}"
    return f"✓ {value}" if trial.chosen else value


def _environment(directory: Path) -> str:
    found: dict[str, Any] = read_json(directory / "environment.json") or {}
    packages = found.pop("packages", None) or {}
    found = {**found, **packages}
    rows = [[key, str(value)] for key, value in found.items() if not isinstance(value, dict) and value is not None]
    suite = directory / "suite.yaml"
    text = suite.read_text(encoding="utf-8") if suite.exists() else ""
    return (
        f'<div class="plain">{table(["", ""], rows)}</div>'
        + f"<details><summary>The suite</summary><pre>{escape(text)}</pre></details>"
    )
