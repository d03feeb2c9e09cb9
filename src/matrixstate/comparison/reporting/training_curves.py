"""Figures of runs, by matplotlib (the `plots` extra)."""

import math
from collections.abc import Mapping
from pathlib import Path

from matrixstate.evaluation.plotting import COLOURS, new_figure, save_figure
from matrixstate.training import Run


def draw_curves(runs: Mapping[str, Run], path: Path, title: str) -> None:
    """Loss against step: thin lines for the smoothed training loss, marks for looks at the validation text.

    In bits per token. Raises MissingExtra without matplotlib.
    """
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    highest = lowest = None
    for (name, run), colour in zip(runs.items(), COLOURS * 9, strict=False):
        lines = run.metrics()
        steps, losses = _smoothed([(line["step"], line["loss"]) for line in lines if "loss" in line])
        axes.plot(steps, losses, color=colour, linewidth=1, alpha=0.45)
        looks = [(line["step"], line["validation_loss"] / math.log(2)) for line in lines if "validation_loss" in line]
        axes.plot(*zip(*looks, strict=True), color=colour, marker="o", markersize=4, linewidth=1.8, label=name)
        values = [loss for _, loss in looks] + losses[len(losses) // 10 :]
        highest, lowest = max([*values, highest or 0]), min([*values, lowest or math.inf])
    axes.set_ylim((lowest or 0) - 0.1, (highest or 1) + 0.1)
    axes.set_xlabel("step")
    axes.set_ylabel("bits per token")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, title="marks: validation, thin: training")
    save_figure(figure, path)


def _smoothed(points: list[tuple[int, float]], decay: float = 0.95) -> tuple[list[int], list[float]]:
    """An exponential mean of the losses, in bits, unbiased at the start."""
    steps, out, mean, weight = [], [], 0.0, 0.0
    for step, loss in points:
        mean, weight = decay * mean + (1 - decay) * loss, decay * weight + (1 - decay)
        steps.append(step)
        out.append(mean / weight / math.log(2))
    return steps, out
