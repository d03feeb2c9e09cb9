"""report.html: one file without scripts or references to anything outside it, made of the CSV files and the suite."""

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from matrixstate.comparison.figures import CAPTIONS
from matrixstate.comparison.jobs import read_json
from matrixstate.comparison.results import MATCHING, RESULTS, TRIALS, Result, Size, Trial, read_rows
from matrixstate.comparison.summary import METHODS, Line, headlines, summarise

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --soft: #666; --line: #ddd; --card: #f6f6f4; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #16181a; --soft: #a0a0a0; --line: #3a3d40; --card: #202326; }
  figure svg { filter: invert(0.91) hue-rotate(180deg); }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { line-height: 1.2; margin-bottom: 0; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p.soft, figcaption, .soft { color: var(--soft); } ul.findings { font-size: 1.1rem; padding-left: 1.2rem; }
p.verdict { font-weight: 700; font-size: 1.15rem; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .plain td { text-align: left; }
th { white-space: normal; color: var(--soft); font-weight: 600; vertical-align: bottom; }
tr.control td { background: var(--card); }
figure { margin: 1.5rem 0; } figure svg { max-width: 100%; height: auto; display: block; background: #fff; }
pre { background: var(--card); padding: 0.8rem; overflow-x: auto; font-size: 0.85rem; } summary { cursor: pointer; }
"""


def write_report(directory: Path, figures: Sequence[Path], notes: Sequence[str] = ()) -> Path:
    """Writes report.html of a comparison. `notes` stand above its findings: a claim's verdict, say."""
    rows = read_rows(directory / RESULTS, Result)
    sizes, trials = read_rows(directory / MATCHING, Size), read_rows(directory / TRIALS, Trial)
    title = rows[0].suite if rows else directory.name
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_about(rows, sizes))}</p>',
        *(f"<p{_weight(note)}>{escape(note)}</p>" for note in notes),
        _list("findings", headlines(rows)),
        "<h2>Results</h2>",
        _results(rows),
        *_figures(figures),
        "<h2>The budget</h2>",
        _matching(sizes, rows),
        "<h2>Learning rates</h2>",
        _trials(trials, rows),
        "<h2>How to read this</h2>",
        _list("methods", METHODS),
        "<h2>Where it was made</h2>",
        _environment(directory),
    ]
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
    path = directory / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def _weight(note: str) -> str:
    return ' class="verdict"' if note.startswith("Verdict") else ""


def _about(rows: Sequence[Result], sizes: Sequence[Size]) -> str:
    seeds = len({row.seed for row in rows})
    budget = next((size.budget for size in sizes if size.budget), "")
    matched = f"at matched {WORDS[budget]}" if budget else "not matched to any budget"
    return f"{len(sizes)} entries, {seeds} seed{'s' if seeds != 1 else ''} each, {matched}."


WORDS = {
    "parameters": "parameters",
    "state_bytes": "bytes of state",
    "flops": "arithmetic of training",
    "wall_time": "time of training",
}


def _list(name: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{name}">{items}</ul>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool] = ()) -> str:
    """An HTML table of escaped cells; marked rows stand out."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = ""
    for i, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        body += f'<tr class="control">{cells}</tr>' if i < len(marked) and marked[i] else f"<tr>{cells}</tr>"
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _results(rows: Sequence[Result]) -> str:
    if not rows:
        return "<p>None.</p>"
    lines = summarise(rows)
    columns = ["entry", f"{rows[0].metric}, mean", "interval", "seeds", "against the control", "item error"]
    columns += ["solved"] if rows[0].kind == "task" else []
    said = '<p class="soft">The shaded row is the control; n.d.s.: no difference shown.</p>'
    return table(columns, [_result(line) for line in lines], [line.is_control for line in lines]) + said


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
        *([f"{line.solved[0]} of {line.solved[1]}"] if line.solved is not None else []),
    ]


def _matching(sizes: Sequence[Size], rows: Sequence[Result]) -> str:
    budget = next((size.budget for size in sizes if size.budget), "")
    paths = ", ".join(sorted({size.varied for size in sizes if size.number is not None}))
    said = f"Matched: {WORDS[budget]}." if budget else "Nothing was matched: every entry was trained as it stands."
    said += f" Set to meet it: {paths}." if paths else ""
    state = f"state bytes after {rows[0].train_length:,} tokens" if rows else "state bytes"
    columns = ["entry", "set to", "parameters", "without embeddings", state, "FLOPs per token"]
    body = [[size.title, *_cost(size, [row for row in rows if row.entry == size.entry])] for size in sizes]
    return f"<p>{escape(said)}</p>" + table([*columns, "steps", "tokens", "FLOPs in all", "CPU seconds"], body)


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
        return f"<p>No rate was tried out; the suite's were used: {escape(given)}.</p>"
    metric = rows[0].metric if rows else "value"
    tried = sorted({trial.learning_rate for trial in trials})
    body = []
    for entry in dict.fromkeys(trial.entry for trial in trials):
        mine = {trial.learning_rate: trial for trial in trials if trial.entry == entry}
        body.append([next(iter(mine.values())).title, *(_trial(mine.get(rate)) for rate in tried)])
    edges = {t.title for t in trials if t.chosen and t.learning_rate in (tried[0], tried[-1])}
    said = f"Every entry was tried at the same rates with seed {trials[0].seed}; {metric}, the chosen one marked ✓."
    warned = f" At the edge of the rates tried, so a better one may lie beyond: {', '.join(sorted(edges))}."
    return f"<p>{escape(said + (warned if edges else ''))}</p>" + table(
        ["entry", *(f"{rate:g}" for rate in tried)], body
    )


def _trial(trial: Trial | None) -> str:
    if trial is None:
        return "–"
    value = "failed" if trial.value is None else f"{trial.value:.4f}"
    return f"✓ {value}" if trial.chosen else value


def _figures(paths: Sequence[Path]) -> list[str]:
    return [
        f'<figure role="img" aria-label="{escape(caption)}">{inline_svg(path.read_text(encoding="utf-8"), path.stem)}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for path in paths
        for caption in [CAPTIONS.get(path.stem, path.stem)]
    ]


def inline_svg(svg: str, prefix: str) -> str:
    """An SVG file as an element of a page: no prolog, metadata or name spaces; its ids are made its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", svg)


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
