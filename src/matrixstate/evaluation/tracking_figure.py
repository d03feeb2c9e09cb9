"""The figure of state tracking: accuracy against length."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matrixstate.evaluation.plotting import LineStyle, draw_line, new_figure, save_figure
from matrixstate.evaluation.tracking import Tracking


def draw_tracking(found: Mapping[str, Tracking], trained: int, path: Path) -> None:
    """Draw the accuracy of each model against the length to `path`.

    Solid lines are the accuracy of the answers since the previous length, dashed lines with hollow markers the share of
    sequences without a wrong answer.

    Args:
        found: the measurements by name of the model.
        trained: the longest length of training, marked by a vertical line.
        path: of the figure; its suffix gives the format.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    save_figure(tracking_figure(found, trained), path)


def tracking_figure(found: Mapping[str, Tracking], trained: int) -> Any:
    """The figure of `draw_tracking`, a `matplotlib.figure.Figure`."""
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
