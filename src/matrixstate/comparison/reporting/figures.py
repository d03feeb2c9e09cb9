"""The figures of a comparison, drawn from its CSV files alone, each as PNG and SVG."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matrixstate.comparison.reporting.summary import Line, summarise
from matrixstate.comparison.running.tables import CURVES, RESULTS, Point, Result, read_rows
from matrixstate.evaluation.plotting import LineStyle, columns, draw_line, new_figure, save_figure

Curves = Mapping[str, Mapping[int, list[tuple[float, float]]]]  # entry -> seed -> points


def draw_all(directory: Path) -> list[Path]:
    """Draws every figure for which the CSV files in `directory` have data, into figures/. Returns the SVG files.

    Raises CheckpointError for missing or damaged files, MissingExtra without matplotlib.
    """
    rows, points = read_rows(directory / RESULTS, Result), read_rows(directory / CURVES, Point)
    out, drawn = directory / "figures", []
    for name, draw in FIGURES.items():
        figure = draw(rows, points)
        if figure is not None:
            out.mkdir(exist_ok=True)
            drawn.append(save_both(figure, out / name))
    return drawn


def save_both(figure: Any, path: Path) -> Path:
    """Writes path.png and path.svg. Returns the latter, whose bytes are the same for the same figure."""
    import matplotlib as mpl

    save_figure(figure, path.with_name(f"{path.name}.png"))
    svg = path.with_name(f"{path.name}.svg")
    with mpl.rc_context({"svg.hashsalt": "matrixstate"}):
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
    return svg


class EntryStyles:
    """Title, colour and line of every entry, the same in all figures."""

    def __init__(self, rows: Sequence[Result]) -> None:
        self.titles = {row.entry: row.title for row in rows}
        self.lines = {entry: LineStyle(i, i, len(self.titles)) for i, entry in enumerate(self.titles)}

    def colour(self, entry: str) -> str:
        return self.lines[entry].colour

    def of(self, curves: Curves) -> list[tuple[str, LineStyle]]:
        """The entries that have a curve, in order, each with its line."""
        return [(entry, line) for entry, line in self.lines.items() if entry in curves]


def curves_named(points: Sequence[Point], curve: str) -> Curves:
    """The finite points of one kind of curve, by entry and seed."""
    found: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for p in points:
        if p.curve == curve and math.isfinite(p.y):
            found.setdefault(p.entry, {}).setdefault(p.seed, []).append((p.x, p.y))
    return found


def mean_curve(seeds: Mapping[int, list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over seeds at every x at which all seeds have a point."""
    every = [dict(points) for points in seeds.values()]
    common = sorted(set.intersection(*(set(points) for points in every)))
    return [(x, statistics.fmean(points[x] for points in every)) for x in common]


def draw_values(rows: Sequence[Result], points: Sequence[Point]) -> Any:
    """One row per entry, the best on top: a dot per seed, a bar for the mean, a line for its interval."""
    lines = [line for line in summarise(rows) if line.values]
    if not lines:
        return None
    styles, first = EntryStyles(rows), rows[0]
    figure = new_figure(8, 0.5 * len(lines) + 1.6)
    axes = figure.add_subplot()
    for place, line in enumerate(lines):
        draw_entry(axes, line, place, styles.colour(line.first.entry))
    control = next((line for line in lines if line.is_control), None)
    if control is not None and len(lines) > 1:
        axes.axvline(control.mean, color="0.6", linestyle="--", linewidth=1, zorder=0)
    axes.set_yticks(range(len(lines)), [_with_solved(line) for line in lines])
    axes.set_ylim(len(lines) - 0.5, -0.5)
    dashed = "; dashed: the control" if control is not None and len(lines) > 1 else ""
    axes.set_xlabel(f"{first.metric}, {first.better} is better{dashed}")
    axes.set_title("Dots: seeds. Bars: mean and interval", fontsize=10)
    bare(axes, "x")
    return figure


def _with_solved(line: Line) -> str:
    return line.title if line.solved is None else f"{line.title}\nsolved {line.solved[0]} of {line.solved[1]}"


def draw_entry(axes: Any, line: Line, place: int, colour: str) -> None:
    """Draws the row of one entry: a dot per seed, a bar for the mean, a line for its interval."""
    seen = list(line.values.values())
    # seeds beside each other across the row, so that equal values do not hide each other
    spread = [place + 0.12 * (i - (len(seen) - 1) / 2) / max(1, len(seen) - 1) * 2 for i in range(len(seen))]
    axes.plot(seen, spread, "o", color=colour, alpha=0.55, markersize=6, markeredgewidth=0)
    axes.plot([line.mean] * 2, [place - 0.28, place + 0.28], color=colour, linewidth=2.5)
    if line.interval is not None:
        axes.plot([line.interval.low, line.interval.high], [place] * 2, color=colour, linewidth=1.5)


def draw_loss(rows: Sequence[Result], points: Sequence[Point]) -> Any:
    """Loss against step: validation loss, with smoothed training loss as thin lines; for tasks the latter alone."""
    training, validation = curves_named(points, "training loss"), curves_named(points, "validation loss")
    if not training:
        return None
    figure = new_figure(9, 4.8)
    axes = figure.add_subplot()
    shown = []
    styles = EntryStyles(rows)
    for entry, line in styles.of(training):
        mean = mean_curve(training[entry])
        shown += [y for _, y in mean[len(mean) // 10 :]]  # the first losses would leave no room for the others
        if entry in validation:
            axes.plot(*columns(mean), color=line.colour, linestyle=line.dashes, linewidth=1, alpha=0.6)
            mean = mean_curve(validation[entry])
            shown += [y for _, y in mean]
        draw_line(axes, mean, line, styles.titles[entry])
    _limits(axes, shown)
    axes.set_xlabel("step")
    axes.set_ylabel("nats per token")
    growing = "Training loss; it rises where the sequences grow. Means over seeds"
    title = "Thick: validation. Thin: training. Means over seeds" if validation else growing
    axes.set_title(title, fontsize=10, loc="left")
    bare(axes, "both")
    _add_legend(figure)
    return figure


def draw_positions(rows: Sequence[Result], points: Sequence[Point]) -> Any:
    """Loss against the position in the window: how much a model gains from more context."""
    return _against_position(rows, curves_named(points, "loss by position"), "nats per token")


def draw_accuracy(rows: Sequence[Result], points: Sequence[Point]) -> Any:
    """Accuracy against the position in the sequence, with the training length marked."""
    return _against_position(rows, curves_named(points, "accuracy"), "accuracy")


def _against_position(rows: Sequence[Result], curves: Curves, label: str) -> Any:
    if not curves:
        return None
    styles, lengths = EntryStyles(rows), sorted({row.train_length for row in rows})
    figure = new_figure(9, 4.8)
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)
    for entry, line in styles.of(curves):
        for seed in curves[entry].values():
            axes.plot(*columns(seed), color=line.colour, linestyle=line.dashes, linewidth=0.7, alpha=0.35)
        draw_line(axes, mean_curve(curves[entry]), line, styles.titles[entry])
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    end = max(x for seeds in curves.values() for points in seeds.values() for x, _ in points)
    for place, length in enumerate(lengths if end > 1.1 * lengths[-1] else ()):
        axes.axvline(length, color="0.4", linestyle="--", linewidth=1)
        top = axes.get_xaxis_transform()
        text = f"trained to {length:,}" if place == 0 else f"{length:,}"  # lengths may be close to each other
        axes.text(length, 1.01, text, ha="center", transform=top, fontsize=9, color="0.4")
    axes.set_xlabel("position in the sequence")
    axes.set_ylabel(label)
    axes.set_title("Thick: means over seeds. Thin: seeds", fontsize=10, loc="left", pad=18)
    bare(axes, "both")
    _add_legend(figure)
    return figure


def draw_states(rows: Sequence[Result], points: Sequence[Point]) -> Any:
    """The largest norm of the states against the step."""
    curves = curves_named(points, "state size")
    if not curves:
        return None
    styles = EntryStyles(rows)
    figure = new_figure(9, 4.5)
    axes = figure.add_subplot()
    for entry, line in styles.of(curves):
        first, *others = curves[entry].values()
        for seed in others:
            axes.plot(*columns(seed), color=line.colour, linestyle=line.dashes, linewidth=1.2)
        draw_line(axes, first, line, styles.titles[entry], linewidth=1.2)
    axes.set_xlabel("step")
    axes.set_ylabel("log₁₀ of the largest norm of a state")
    axes.set_title("Size of the states in training, every seed", fontsize=10, loc="left")
    bare(axes, "both")
    _add_legend(figure)
    return figure


def draw_state_bytes(rows: Sequence[Result], points: Sequence[Point]) -> Any:
    """The metric against the size of the state, every seed, where sizes differ."""
    sizes = {row.entry: row.state_bytes for row in rows if row.state_bytes and row.value is not None}
    if len(set(sizes.values())) < 2:
        return None
    styles, shifts = EntryStyles(rows), _side_by_side(sizes)
    figure = new_figure(9, 4.5)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    for line in (line for line in summarise(rows) if line.first.entry in sizes):
        size, colour = sizes[line.first.entry], styles.colour(line.first.entry)
        moved = _moved(axes, shifts[line.first.entry])
        seen = list(line.values.values())
        axes.plot([size] * len(seen), seen, "o", color=colour, alpha=0.55, transform=moved)
        bar = {"marker": "_", "markersize": 18, "markeredgewidth": 2.5}
        axes.plot([size], [line.mean], color=colour, label=line.title, linestyle="none", transform=moved, **bar)
        axes.update_datalim([(size, value) for value in seen])  # what is moved sideways sets no limits itself
    axes.margins(x=0.15)
    axes.autoscale_view()
    axes.set_xlabel(f"state in bytes, after {rows[0].train_length:,} tokens")
    axes.set_ylabel(rows[0].metric)
    axes.set_title("Dots: seeds. Bars: means. Entries of nearly equal size are side by side", fontsize=10, loc="left")
    bare(axes, "both")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


FIGURES: dict[str, Callable[[Sequence[Result], Sequence[Point]], Any]] = {
    "values": draw_values,
    "accuracy": draw_accuracy,
    "loss": draw_loss,
    "positions": draw_positions,
    "state-bytes": draw_state_bytes,
    "states": draw_states,
}
CAPTIONS = {
    "values": "The result of every seed.",
    "accuracy": "Accuracy against the position; the dashed lines are training lengths.",
    "loss": "Loss against the step.",
    "positions": "Loss against the position in the window.",
    "state-bytes": "The result against the size of the state.",
    "states": "Largest norm of the states against the step.",
}


def _side_by_side(sizes: Mapping[str, int]) -> dict[str, float]:
    """By how many points to move each entry sideways, so that those of nearly equal size do not hide each other."""
    order = sorted(sizes, key=lambda entry: sizes[entry])
    near = 0.05 * math.log(sizes[order[-1]] / sizes[order[0]])
    groups: list[list[str]] = []
    for entry in order:
        if groups and math.log(sizes[entry] / sizes[groups[-1][0]]) <= near:
            groups[-1].append(entry)
        else:
            groups.append([entry])
    return {e: 20 * (i - (len(group) - 1) / 2) for group in groups for i, e in enumerate(group)}


def _moved(axes: Any, right: float) -> Any:
    """The axes' data transform, moved to the right by that many points."""
    from matplotlib.transforms import ScaledTranslation

    return axes.transData + ScaledTranslation(right / 72, 0, axes.figure.dpi_scale_trans)


def _add_legend(figure: Any) -> None:
    """On the right of lines drawn by `draw_line`, outside the axes."""
    title = "markers tell lines apart"
    figure.legend(loc="outside right upper", frameon=False, title=title, title_fontsize=9, alignment="left")


def _limits(axes: Any, shown: Sequence[float]) -> None:
    if shown:
        room = 0.05 * (max(shown) - min(shown)) or 0.1
        axes.set_ylim(min(shown) - room, max(shown) + room)


def bare(axes: Any, grid: str) -> None:
    """Light grid lines along `grid` ("x", "y", "both"), no frame above or on the right."""
    axes.grid(axis=grid, alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
