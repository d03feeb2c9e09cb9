"""The one way to matplotlib (the `plots` extra), without its global state or a screen."""

from pathlib import Path
from typing import Any

from matrixstate.errors import ConfigError, MissingExtra

COLOURS = ("#0072b2", "#d55e00", "#444444", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # safe for the colour-blind


def new_figure(width: float, height: float) -> Any:
    """An empty figure of that size in inches. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("figure: needs matplotlib: pip install 'matrixstate[plots]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def expect_format(path: Path) -> None:
    """Raises ConfigError unless the ending of `path` says in which format a figure is to be written there."""
    known = new_figure(1, 1).canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ConfigError(f"figure: expected a name that ends in one of .{', .'.join(sorted(known))}, got {path}")


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure; the ending of `path` says in which format. Raises ConfigError where it cannot be written."""
    try:
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ConfigError(f"figure: cannot write {path}: {' '.join(str(error).split())}") from error
