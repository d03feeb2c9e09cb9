"""The figure of the losses of several runs (the `plots` extra)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matrixstate.evaluation.plotting import LineStyle, columns, draw_line, new_figure, save_figure
from matrixstate.training import Run


def draw_curves(runs: Mapping[str, Run], path: Path, title: str) -> None:
    """Loss against step, in bits per token: thick lines for validation, thin ones for the smoothed training loss.

    Raises MissingExtra without matplotlib.
    """
    save_figure(curves_figure({name: run.metrics() for name, run in runs.items()}, title), path)


def curves_figure(logs: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Any:
    """The figure that `draw_curves` writes, of the lines of each run's metrics.jsonl."""
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    highest = lowest = None
    for i, (name, lines) in enumerate(logs.items()):
        style = LineStyle(i, i, len(logs))
        training = _smoothed([(line["step"], line["loss"]) for line in lines if "loss" in line])
        axes.plot(*columns(training), color=style.colour, linewidth=1, alpha=0.45)
        validation = [
            (line["step"], line["validation_loss"] / math.log(2)) for line in lines if "validation_loss" in line
        ]
        if validation:
            draw_line(axes, validation, style, name)
        else:  # a run on a task: the thin line alone says whose it is
            axes.lines[-1].set(label=name, alpha=1)
        # without the first tenth of the training, which would leave no room for what follows
        values = [loss for _, loss in validation + training[len(training) // 10 :]]
        highest, lowest = max([*values, highest or 0]), min([*values, lowest or math.inf])
    axes.set_ylim((lowest or 0) - 0.1, (highest or 1) + 0.1)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per token")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, title="thick: validation, thin: training")
    return figure


def _smoothed(points: Sequence[tuple[int, float]], decay: float = 0.95) -> list[tuple[float, float]]:
    """An exponential mean of the losses, in bits, unbiased at the start."""
    found, mean, weight = [], 0.0, 0.0
    for step, loss in points:
        mean, weight = decay * mean + (1 - decay) * loss, decay * weight + (1 - decay)
        found.append((float(step), mean / weight / math.log(2)))
    return found
