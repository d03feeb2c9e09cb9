"""Figures with matplotlib (the `plots` extra), without its global state or a display, and styles of their lines."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matrixstate.errors import ConfigError, MissingExtra

COLOURS = ("#0072b2", "#d55e00", "#444444", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # colour-blind safe
DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", ">", "<")  # filled, so that a line of the same colour does not hide them
MARKERS_IN_ALL = 42  # in a figure, so that markers on one line are at least a marker's width apart


def new_figure(width: float, height: float) -> Any:
    """An empty figure of `width` by `height` inches. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("figure: needs matplotlib: pip install 'matrixstate[plots]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


@dataclass(frozen=True)
class LineStyle:
    """The style of one of several lines in a figure: colour, dashes, and markers where no other line has them."""

    index: int
    """Chooses colour, dashes and marker: 0, 1, 2, ..."""
    place: int
    """Which of the `places` the markers take, from 0."""
    places: int
    """Number of lines whose markers must not coincide."""

    @property
    def colour(self) -> str:
        return COLOURS[self.index % len(COLOURS)]

    @property
    def dashes(self) -> str:
        return DASHES[self._round % len(DASHES)]

    @property
    def marker(self) -> str:
        return MARKERS[(self.index + self._round) % len(MARKERS)]

    @property
    def _round(self) -> int:
        """How often all colours were used before. Lines of one colour differ in dashes and marker."""
        return self.index // len(COLOURS)

    def markers(self, points: Sequence[tuple[float, float]], logarithmic: bool) -> list[tuple[float, float]]:
        """The markers' positions on the line through `points`, which have ascending x.

        They are evenly spaced along the axis, shifted by `place`, so that lines that coincide can be told apart.
        """

        def scaled(x: float) -> float:
            return math.log(x) if logarithmic else x

        low, high = scaled(points[0][0]), scaled(points[-1][0])
        each = max(2, MARKERS_IN_ALL // self.places)
        found, after = [], 0
        for i in range(each):
            share = (i + (self.place + 0.5) / self.places) / each
            at = low + share * (high - low)
            while after < len(points) - 1 and scaled(points[after][0]) < at:
                after += 1
            (x0, y0), (x1, y1) = points[max(0, after - 1)], points[after]
            inside = (at - scaled(x0)) / (scaled(x1) - scaled(x0)) if x1 > x0 else 0.0
            found.append((math.exp(at) if logarithmic else at, y0 + inside * (y1 - y0)))
        return found


def draw_line(axes: Any, points: Sequence[tuple[float, float]], style: LineStyle, label: str, **options: Any) -> None:
    """Draw a labelled line with the markers of its style; nothing without points.

    The scale of the x axis must be set before. `options` are matplotlib's of the line: linewidth, linestyle,
    markerfacecolor.
    """
    if not points:
        return
    logarithmic = axes.get_xscale() == "log"
    line = {"color": style.colour, "linestyle": style.dashes, "linewidth": 1.8, **options}
    face = line.pop("markerfacecolor", style.colour)
    edge = "white" if face == style.colour else style.colour
    marker = {"marker": style.marker, "markersize": 7, "markerfacecolor": face, "markeredgecolor": edge}
    axes.plot(*columns(points), **line)
    places = style.markers(points, logarithmic)
    axes.plot(*columns(places), color=style.colour, linestyle="none", zorder=3, **marker)  # above every line
    axes.plot([], [], label=label, **line, **marker)  # for the legend


def columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """(x, y) pairs as a list of all x and a list of all y."""
    return [x for x, _ in points], [y for _, y in points]


def expect_format(path: Path) -> None:
    """Raise ConfigError unless the suffix of `path` is that of a format in which a figure can be written."""
    known = new_figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ConfigError(f"figure: expected a name that ends in one of .{', .'.join(sorted(known))}, got {path}")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format of the suffix of `path`. Raises ConfigError if it cannot be written."""
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"figure: cannot write {path}: {' '.join(str(error).split())}") from error
