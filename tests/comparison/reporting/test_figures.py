"""A figure shows every line that its legend names, also where all of them coincide."""

import pytest
from tiny import row

from matrixstate.comparison.reporting.figures import FIGURES
from matrixstate.comparison.reporting.training_curves import curves_figure
from matrixstate.comparison.running.tables import Point
from matrixstate.evaluation.plotting import COLOURS
from rendering import visible

pytest.importorskip("matplotlib")
ENTRIES = "abcdefg"
CURVES = {
    "accuracy": ("accuracy",),
    "positions": ("loss by position",),
    "loss": ("training loss", "validation loss"),
    "states": ("state size",),
}


def points(*curves):
    """The same curves for every entry, over two seeds."""
    return [
        Point(
            entry=entry, title=entry.upper(), seed=seed, curve=curve, x=2.0**i, y=1.0 if curve == "accuracy" else 1 / i
        )
        for curve in curves
        for entry in ENTRIES
        for seed in (0, 1)
        for i in range(1, 10)
    ]


@pytest.mark.parametrize("name", [*CURVES, "loss of a task"])
def test_curves_that_coincide_are_all_seen(name):
    rows = [row(entry, seed) for entry in ENTRIES for seed in (0, 1)]
    curves = CURVES.get(name, ("training loss",))
    figure = FIGURES[name.partition(" ")[0]](rows, points(*curves))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(ENTRIES.upper())
    assert visible(figure, list(COLOURS)) == list(COLOURS)


def test_entries_of_equal_value_and_state_are_all_seen():
    sizes = dict.fromkeys(ENTRIES, 1000) | {"a": 2000, "b": 1990}
    rows = [row(entry, seed, 1.0, state_bytes=size) for entry, size in sizes.items() for seed in (0, 1)]
    figure = FIGURES["state-bytes"](rows, [])
    assert visible(figure, list(COLOURS)) == list(COLOURS)


def test_runs_with_the_same_losses_are_all_seen():
    log = [{"step": step, "loss": 2 / step} for step in range(1, 101)]
    log += [{"step": step, "validation_loss": 2 / step} for step in (25, 50, 75, 100)]
    figure = curves_figure(dict.fromkeys(ENTRIES, log), "the same seven times")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == list(ENTRIES)
    assert visible(figure, list(COLOURS)) == list(COLOURS)
