"""The figure of a recovered automaton: the states in a plane, and its multiplication table beside the true one."""

from pathlib import Path
from typing import Any

import numpy as np

from matrixstate.data.tasks.task import Ints
from matrixstate.evaluation.automaton import Automaton
from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure

WRITTEN = 12  # elements up to which the entries of a table are written out
WRONG = "#d55e00"


def draw_automaton(found: Automaton, path: Path) -> None:
    """Draw states, cluster centres and both tables to `path`. Raises MissingExtra without matplotlib."""
    figure = new_figure(15, 5.4)
    plane, ours, theirs = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    n = found.group.order
    figure.suptitle(found.verdict(), fontsize=10)
    _draw_states(plane, found)
    _draw_table(ours, found.table, f"recovered from the {found.source}", n)
    _draw_table(theirs, found.group.table, f"multiplication of {found.group.name}", n)
    rows, columns = np.nonzero(found.table != found.group.table)
    if len(rows):
        side = 190 / n  # in points, a little less than a cell of the table
        ours.scatter(columns, rows, marker="s", facecolors="none", edgecolors=WRONG, s=side**2, linewidths=side / 14)
        ours.set_xlabel(f"j    (framed: {len(rows):,} of {n * n:,} are wrong)")
    save_figure(figure, path)


def _draw_states(axes: Any, found: Automaton) -> None:
    n = found.group.order
    named = n <= WRITTEN
    for element in range(n) if named else [None]:
        here = found.points if element is None else found.points[found.elements == element]
        colour = {"c": found.elements, "cmap": "hsv"} if element is None else {"color": COLOURS[element % len(COLOURS)]}
        marker = "o" if element is None or element < len(COLOURS) else "^"
        axes.scatter(*here.T, s=9, alpha=0.6, linewidths=0, label=element, marker=marker, **colour)
    axes.scatter(*found.centres.T, marker="+", color="black", s=90, linewidths=1.4)
    if named:
        axes.legend(title="element", fontsize=8, title_fontsize=8, loc="best", markerscale=2)
    axes.set_title(
        f"states of layer {found.layer} by true element; + centres of {found.clusters} clusters", fontsize=10
    )
    axes.set_xlabel("first principal component")
    axes.set_ylabel("second")
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(alpha=0.25)


def _draw_table(axes: Any, table: Ints, title: str, n: int) -> None:
    shown = np.ma.masked_less(table, 0)
    axes.imshow(shown, cmap="viridis", vmin=0, vmax=n - 1, interpolation="nearest")
    axes.set_facecolor("white")
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("j")
    axes.set_ylabel("i")
    if n > WRITTEN:
        return
    axes.set_xticks(range(n))
    axes.set_yticks(range(n))
    for (i, j), value in np.ndenumerate(table):
        colour = "black" if value < 0 or value > n / 2 else "white"
        axes.text(j, i, "?" if value < 0 else str(value), ha="center", va="center", color=colour, fontsize=11)
