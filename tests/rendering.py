"""What can be seen in a figure, by its pixels."""

from typing import Any

import numpy as np


def visible(figure: Any, colours: list[str], least: int = 12) -> list[str]:
    """Those of the colours (#rrggbb) that at least so many pixels inside the axes have; legends do not count."""
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        if legend is not None:
            legend.set_visible(False)
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].reshape(-1, 3)
    found = {colour: (pixels == [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=1) for colour in colours}
    return [colour for colour, where in found.items() if where.sum() >= least]
