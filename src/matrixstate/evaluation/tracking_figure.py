"""The figure of how far models track a state (the `plots` extra)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matrixstate.evaluation.plotting import LineStyle, draw_line, new_figure, save_figure
from matrixstate.evaluation.tracking import Tracking


def draw_tracking(found: Mapping[str, Tracking], trained: int, path: Path) -> None:
    """Accuracy against length: of the answers since the previous length (solid), of whole sequences (dashed, hollow).

    A vertical line marks `trained`, the longest length of training. Raises MissingExtra without matplotlib.
    """
    save_figure(tracking_figure(found, trained), path)


def tracking_figure(found: Mapping[str, Tracking], trained: int) -> Any:
    """The figure that `draw_tracking` writes."""
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)
    for i, (name, tracking) in enumerate(found.items()):
        answers, sequences = (LineStyle(i, 2 * i + second, 2 * len(found)) for second in (0, 1))
        draw_line(axes, tracking.curve(), answers, f"{name}: answers")
        whole = [(length, tracking.all_correct(length)) for length in tracking.lengths()]
        hollow = {"linestyle": "--", "markerfacecolor": "white"}
        draw_line(axes, whole, sequences, f"{name}: whole sequences", **hollow)
    axes.axvline(trained, color="0.5", linewidth=1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("length (vertical line: longest in training)")
    axes.set_ylabel("share correct")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
