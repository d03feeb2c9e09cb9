"""A summary of results: numbers per entry, and the findings as sentences."""

import statistics as mean_of
from collections.abc import Sequence
from dataclasses import dataclass

from matrixstate.comparison.reporting.statistics import (
    BOOTSTRAP,
    FEWEST,
    STUDENT,
    WILSON,
    Difference,
    Interval,
    bootstrap,
    describe_difference,
    paired_difference,
    wilson,
)
from matrixstate.comparison.running.tables import Result, by_entry, values


@dataclass(frozen=True)
class Line:
    """One entry over all its seeds."""

    first: Result
    values: dict[int, float]
    """Seed -> value, of the finished trainings."""
    failed: tuple[Result, ...]
    mean: float | None
    interval: Interval | None
    difference: Difference | None
    """From the control, paired by seed; None for the control itself."""
    item_error: float | None
    """The mean of the seeds' standard errors over items, which is unrelated to how seeds differ."""
    solved: tuple[int, int] | None
    """How many seeds solved the task, and how many there are; None for a text."""
    solve_seconds: tuple[float, ...] = ()
    """CPU seconds until an accuracy of 99 % at the full training length, of the seeds that reached it."""

    @property
    def title(self) -> str:
        return self.first.title

    @property
    def is_control(self) -> bool:
        return self.first.entry == self.first.control

    @property
    def solved_interval(self) -> Interval | None:
        return None if self.solved is None else wilson(*self.solved)


def summarise(rows: Sequence[Result]) -> list[Line]:
    """One line per entry, the best mean first, those without any value last."""
    control = values(row for row in rows if row.entry == row.control)
    lines = [_line(mine, control) for mine in by_entry(rows).values()]
    sign = -1 if rows and rows[0].better == "higher" else 1
    return sorted(lines, key=lambda line: (line.mean is None, sign * (line.mean or 0.0)))


def _line(rows: Sequence[Result], control: dict[int, float]) -> Line:
    found, errors = values(rows), [row.item_error for row in rows if row.item_error is not None]
    solved = [bool(row.solved) for row in rows] if rows[0].kind == "task" else None
    return Line(
        first=rows[0],
        values=found,
        failed=tuple(row for row in rows if row.status == "failed" or not row.is_finite),
        mean=mean_of.mean(found.values()) if found else None,
        interval=bootstrap(list(found.values())),
        difference=None if rows[0].entry == rows[0].control else paired_difference(found, control),
        item_error=mean_of.mean(errors) if errors else None,
        solved=None if solved is None else (sum(solved), len(solved)),
        solve_seconds=tuple(row.solved_cpu_seconds for row in rows if row.solved_cpu_seconds is not None),
    )


def headlines(rows: Sequence[Result]) -> list[str]:
    """The findings as sentences, the most important first, among them that no difference is shown."""
    if not rows:
        return ["Nothing has been trained yet."]
    lines = summarise(rows)
    whole = [line for line in lines if line.mean is not None]
    if not whole:
        return ["No training finished.", *_failures(lines)]
    return [*_best(whole), *_against_control(lines), *_solved(lines), *_failures(lines)]


def short_finding(rows: Sequence[Result]) -> str:
    """The first headline, and that on the best entry against the control, or that no entry differs from it."""
    first, lines = headlines(rows)[0], [line for line in summarise(rows) if line.mean is not None]
    against = _against_control(lines)
    none_differs = len(against) == len(lines)  # a sentence per other entry, preceded by that one
    return f"{first} {against[0]}" if against and (none_differs or not lines[0].is_control) else first


def _best(lines: Sequence[Line]) -> list[str]:
    best = lines[0]
    seeds = f"{len(best.values)} seed{'s' if len(best.values) > 1 else ''}"
    sentences = [f"{best.title} has the {best.first.better_word} mean: {in_metric(best.mean, best.first)} ({seeds})."]
    # with the control among the first two, their difference is one of those from the control
    if len(lines) > 1 and not (best.is_control or lines[1].is_control):
        second = lines[1]
        gap = paired_difference(best.values, second.values)
        sentences.append("The first two: " + describe_difference(best.title, second.title, gap, best.first.metric))
    return sentences


def _against_control(lines: Sequence[Line]) -> list[str]:
    control = next((line for line in lines if line.is_control), None)
    others = [line for line in lines if not line.is_control]
    if control is None or not others:
        return []
    sentences = [
        describe_difference(line.title, control.title, line.difference, line.first.metric) + _item_error_note(line)
        for line in others
    ]
    compared = [line.difference for line in others if line.difference is not None]
    if compared and all(d.interval is not None and not d.shown for d in compared):
        sentences.insert(0, f"This comparison shows no difference between {control.title} and any other entry.")
    return sentences


def _item_error_note(line: Line) -> str:
    gap, error = line.difference, line.item_error
    if gap is None or error is None or not gap.shown or abs(gap.mean) >= error:
        return ""
    return f" That is less than the item error of one model, {error:.3f}."


def _solved(lines: Sequence[Line]) -> list[str]:
    sentences = []
    for line in lines:
        if line.solved is not None and line.solved_interval is not None:
            k, n = line.solved
            low, high = line.solved_interval.low, line.solved_interval.high
            level = f" ({line.first.metric} of at least {line.first.solved_at:g})" if not sentences else ""
            sentences.append(
                f"{line.title} solved the task in {k} of {n} seeds{level}; {WILSON}: {low:.0%} to {high:.0%}."
            )
    return sentences


def _failures(lines: Sequence[Line]) -> list[str]:
    return [
        f"{line.title}: {len(line.failed)} of {len(line.failed) + len(line.values)} trainings failed; "
        f"the first: {line.failed[0].reason or 'its value is not finite'}"
        for line in lines
        if line.failed
    ]


def in_metric(value: float | None, row: Result) -> str:
    """A value with its metric."""
    return "–" if value is None else f"{value:.4f} {row.metric}"


METHODS = (
    f"Means: {BOOTSTRAP}; none for fewer than {FEWEST} seeds. With few seeds such an interval is too narrow "
    "rather than too wide, since it cannot leave the range of the values.",
    f"Differences: {STUDENT}, of the differences between trainings with the same seed. Without a correction for "
    "multiple comparisons: of twenty entries that do not differ, one is shown to differ.",
    f"Fractions of seeds: {WILSON}.",
    "Item error: the standard error of one model's number over the windows or sequences it was measured on. It "
    "says how precisely a model was measured, not how trainings differ, and is not part of any interval.",
)
