"""Styles of lines: they differ, and markers are on the line where no other line has them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrixstate.evaluation.plotting import COLOURS, DASHES, LineStyle
from matrixstate.evaluation.tracking import Tracking
from matrixstate.evaluation.tracking_figure import tracking_figure
from rendering import visible

CURVES = st.lists(st.tuples(st.integers(1, 9000), st.floats(-3, 3)), min_size=1, max_size=60, unique_by=lambda p: p[0])


@given(CURVES, st.integers(1, 40), st.booleans())
def test_markers_are_on_the_line_and_no_two_lines_share_a_place(curve, places, logarithmic):
    curve = sorted((float(x), y) for x, y in curve)
    xs, ys = zip(*curve, strict=True)
    found = [LineStyle(i, i, places).markers(curve, logarithmic) for i in range(places)]
    scale = np.log if logarithmic else np.asarray
    for markers in found:
        x, y = np.array(markers).T
        assert len(markers) >= 2
        np.testing.assert_allclose(np.interp(scale(x), scale(xs), ys), y, atol=1e-8)
    if len(curve) > 1:
        taken = [x for markers in found for x, _ in markers]
        assert len(set(taken)) == len(taken)


def test_the_styles_of_28_lines_differ():
    styles = [LineStyle(i, i, 28) for i in range(len(COLOURS) * len(DASHES))]
    assert len({(style.colour, style.dashes) for style in styles}) == len({(s.colour, s.marker) for s in styles}) == 28


def test_lines_that_coincide_are_all_visible():
    pytest.importorskip("matplotlib")
    asked = np.full(64, 8)
    perfect = Tracking(prefix=True, sequences=8, right=asked, asked=asked, whole=asked)
    names = ["a", "b", "c", "d"]
    figure = tracking_figure(dict.fromkeys(names, perfect), 16)
    (axes,) = figure.axes
    markers = [line for line in axes.lines if line.get_linestyle() == "None"]
    taken = [x for line in markers for x in line.get_xdata()]
    assert len(markers) == 2 * len(names)  # of answers and of whole sequences
    assert len(set(taken)) == len(taken)
    assert visible(figure, list(COLOURS[: len(names)])) == list(COLOURS[: len(names)])
