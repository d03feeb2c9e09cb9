"""Helpers for the figures of the benchmarks."""

import itertools
import math
from typing import Any


def bare(axes: Any) -> None:
    """Sets light grid lines and removes the frame at the top and on the right."""
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def logarithmic(axes: Any, places: list[int]) -> None:
    """Makes both axes logarithmic, with plain numbers as labels: at `places` on x, at 1, 2, 5 times 10^n on y."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    ticks = [n * 10.0**power for power in powers for n in steps if low <= n * 10.0**power <= high]
    axes.set_yticks(ticks, labels=[f"{tick:,.10g}" for tick in ticks])
    axes.set_xticks(places, labels=[f"{place:,}" for place in places])
    axes.minorticks_off()


def label_ends(axes: Any, ends: list[tuple[float, str, Any]], x: float, apart: float = 1.17) -> None:
    """Writes names (height, name, colour) to the right of lines, moved up if they would overlap; y is logarithmic."""
    ends = sorted(ends, key=lambda end: end[0])
    heights = [height for height, _, _ in ends]
    for below, above in itertools.pairwise(range(len(ends))):
        heights[above] = max(heights[above], heights[below] * apart)
    for height, (_, name, colour) in zip(heights, ends, strict=True):
        axes.text(x, height, name, color=colour, va="center", fontsize=9)
