"""The overview of a set, from its results.csv alone: a panel per part in a figure, a cell per part in a table."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matrixstate.comparison.reporting.figures import EntryStyles, bare, draw_entry, save_both
from matrixstate.comparison.reporting.summary import Line, summarise
from matrixstate.comparison.running.tables import RESULTS, PartResult, by_part, read_rows
from matrixstate.evaluation.plotting import new_figure

CAPTION = "One panel per part. Dots: seeds. Bars: means and their intervals. Dashed: the control."
ACROSS = 2  # panels beside each other


def draw_overview(directory: Path) -> list[Path]:
    """Draws figures/overview.png and .svg of a comparison of several parts. Returns the SVG file; none without results.

    Raises CheckpointError for a missing or damaged results.csv, MissingExtra without matplotlib.
    """
    rows = read_rows(directory / RESULTS, PartResult)
    if not any(row.value is not None for row in rows):
        return []
    (directory / "figures").mkdir(exist_ok=True)
    return [save_both(_panels(rows), directory / "figures" / "overview")]


def _panels(rows: Sequence[PartResult]) -> Any:
    parts, styles = by_part(rows), EntryStyles(rows)
    across = min(ACROSS, len(parts))
    down = math.ceil(len(parts) / across)
    figure = new_figure(2 + 4 * across, down * (0.34 * len(styles.titles) + 1.2))
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for i, (axes, mine) in enumerate(zip(panels, parts.values(), strict=False)):
        _panel(axes, mine, styles, named=i % across == 0)
    for axes in panels[len(parts) :]:
        axes.remove()
    figure.get_layout_engine().set(hspace=0.06, wspace=0.04)
    return figure


def _panel(axes: Any, rows: Sequence[PartResult], styles: EntryStyles, named: bool) -> None:
    """Draws one panel; its entries are in the order of the suite, as in all panels."""
    places = {entry: place for place, entry in enumerate(styles.titles)}
    for line in summarise(rows):
        if line.values:
            draw_entry(axes, line, places[line.first.entry], styles.colour(line.first.entry))
        if line.is_control and line.mean is not None:
            axes.axvline(line.mean, color="0.6", linestyle="--", linewidth=1, zorder=0)
    axes.set_yticks(range(len(places)), list(styles.titles.values()) if named else [""] * len(places))
    axes.set_ylim(len(places) - 0.5, -0.5)
    if rows[0].kind == "task":  # the same range for all tasks, so that small differences look small
        axes.set_xlim(-0.03, 1.03)
    axes.locator_params(axis="x", nbins=6)
    axes.set_title(rows[0].suite, fontsize=10)
    axes.set_xlabel(f"{rows[0].metric}, {rows[0].better} is better", fontsize=9)
    bare(axes, "x")


def cell(line: Line | None) -> str:
    """The cell of an entry in a part: the mean with its interval, solved seeds, failures."""
    if line is None:
        return "–"
    lines = ["–" if line.mean is None else f"{line.mean:.4f}"]
    if line.interval is not None:
        lines[0] += f" [{line.interval.low:.4f}, {line.interval.high:.4f}]"
    if line.solved is not None:
        lines.append(f"solved {line.solved[0]} of {line.solved[1]}")
    if line.failed:
        lines.append(f"{len(line.failed)} failed")
    return "\n".join(lines)
