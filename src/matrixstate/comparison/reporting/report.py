"""report.html: one file without scripts or references to anything outside it, made of the CSV files and the suite."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from matrixstate.comparison.reporting.overview import CAPTION, cell
from matrixstate.comparison.reporting.page import figure, table, write_page
from matrixstate.comparison.reporting.sections import background, findings, heading
from matrixstate.comparison.reporting.summary import short_finding, summarise
from matrixstate.comparison.running.tables import RESULTS, PartResult, Result, by_entry, by_part, read_rows


def write_report(directory: Path, figures: Sequence[Path], notes: Sequence[str] = ()) -> Path:
    """Writes report.html of a comparison. `notes`, such as a claim's verdict, precede its findings."""
    rows = read_rows(directory / RESULTS, Result)
    title = rows[0].suite if rows else directory.name
    parts = [heading(title, 1), *findings(directory, figures, notes), *background(directory)]
    return write_page(directory / "report.html", title, parts)


def write_set_report(
    directory: Path, overview: Sequence[Path], places: Mapping[str, Path], figures: Mapping[str, Sequence[Path]]
) -> Path:
    """Writes report.html of a comparison of several parts: an overview, then a section per part.

    `overview` are the figures of the overview, `places` and `figures` the directory and the figures of each part.
    Raises CheckpointError for missing or damaged CSV files.
    """
    rows = read_rows(directory / RESULTS, PartResult)
    parts = by_part(rows)
    title = rows[0].comparison if rows else directory.name
    page = [
        heading(title, 1),
        f'<p class="soft">{escape(_about(parts))}</p>',
        '<ul class="findings">',
        *(
            f'<li><a href="#part-{escape(name)}">{escape(mine[0].suite)}</a>: {escape(short_finding(mine))}</li>'
            for name, mine in parts.items()
        ),
        "</ul>",
        heading("Overview", 2),
        _overview(parts),
        *(figure(path, CAPTION, path.stem) for path in overview),
    ]
    for i, (name, mine) in enumerate(parts.items()):
        page += [f'<section id="part-{escape(name)}">', heading(mine[0].suite, 2)]
        page += [*findings(places[name], figures[name], level=3, prefix=f"p{i}-"), "</section>"]
    return write_page(directory / "report.html", title, [*page, *background(directory)])


def _about(parts: Mapping[str, Sequence[PartResult]]) -> str:
    rows = [row for mine in parts.values() for row in mine]
    seeds = len({row.seed for row in rows})
    entries = len(by_entry(rows))
    return (
        f"{len(parts)} part{'s' if len(parts) != 1 else ''}, {entries} entr{'ies' if entries != 1 else 'y'} in each, "
        f"{seeds} seed{'s' if seeds != 1 else ''} each."
    )


def _overview(parts: Mapping[str, Sequence[PartResult]]) -> str:
    lines = {name: {line.first.entry: line for line in summarise(mine)} for name, mine in parts.items()}
    every = {entry: line for mine in lines.values() for entry, line in mine.items()}
    entries = by_entry([row for mine in parts.values() for row in mine])
    columns = ["entry", *(f"{mine[0].suite}\n{mine[0].metric}" for mine in parts.values())]
    body = [[every[entry].title, *(cell(mine.get(entry)) for mine in lines.values())] for entry in entries]
    note = '<p class="soft">Means with their intervals. The shaded row is the control.</p>'
    return table(columns, body, [every[entry].is_control for entry in entries]) + note
