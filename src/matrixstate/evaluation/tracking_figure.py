"""The figure of how far models track (the `plots` extra)."""

from collections.abc import Mapping
from pathlib import Path

from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure
from matrixstate.evaluation.tracking import Tracking


def draw_tracking(found: Mapping[str, Tracking], trained: int, path: Path) -> None:
    """Accuracy against length: of answers since the length before, solid, and of whole sequences, dashed.

    A line stands at the longest length of training. Raises MissingExtra without matplotlib.
    """
    figure = new_figure(7, 4.5)
    axes = figure.add_subplot()
    for (name, tracking), colour in zip(found.items(), COLOURS * 9, strict=False):
        axes.plot(*zip(*tracking.curve(), strict=True), color=colour, label=f"{name}: answers")
        whole = [(length, tracking.all_correct(length)) for length in tracking.lengths()]
        axes.plot(*zip(*whole, strict=True), color=colour, linestyle="--", label=f"{name}: whole sequences")
    axes.axvline(trained, color="0.5", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("length (line: longest in training)")
    axes.set_ylabel("share right")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save_figure(figure, path)
