"""Checks of figures by their pixels."""

from typing import Any

import numpy as np


def visible(figure: Any, colours: list[str], least: int = 12) -> list[str]:
    """The colours (#rrggbb) that at least `least` pixels of the figure have; legends are hidden first."""
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        if legend is not None:
            legend.set_visible(False)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].reshape(-1, 3)
    found = {colour: (pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=1) for colour in colours}
    return [colour for colour, where in found.items() if where.sum() >= least]
