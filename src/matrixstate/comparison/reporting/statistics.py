"""Statistics of a few seeds: intervals with a named method, paired differences, and sentences that describe them."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000
FEWEST = 3  # seeds without which no interval is given
STUDENT = f"Student's t over paired seeds, {LEVEL:.0%}"
BOOTSTRAP = f"percentile bootstrap over seeds, {RESAMPLES:,} resamples, {LEVEL:.0%}"
WILSON = f"Wilson, {LEVEL:.0%}"
Z = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class Interval:
    """A confidence interval and the method it was computed by."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Difference:
    """The first minus the second of two entries, over the seeds that both have."""

    mean: float
    interval: Interval | None
    """None for fewer than three seeds."""
    seeds: int

    @property
    def shown(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and (self.interval.low > 0 or self.interval.high < 0)


def wilson(successes: int, trials: int) -> Interval:
    """Wilson's score interval of a probability. Source: Wilson 1927.

    Raises ValueError unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"wilson: expected 0 <= successes <= trials and trials > 0, got {successes} of {trials}")
    share, z2 = successes / trials, Z * Z
    # solves |share - p| = Z sqrt(p (1 - p) / trials) for p
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    # for no or only successes one end is 0 or 1 exactly, which rounding would miss
    low = 0.0 if successes == 0 else middle - half
    return Interval(low, 1.0 if successes == trials else middle + half, WILSON)


def bootstrap(values: Sequence[float], seed: int = 0) -> Interval | None:
    """Percentile bootstrap interval of the mean of `values`, one per seed; None for fewer than three.

    With few seeds it is too narrow rather than too wide, since it cannot leave the range of the values.
    """
    if len(values) < FEWEST:
        return None
    # a fixed seed: the same values always have the same interval
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    means = np.asarray(values, dtype=np.float64)[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), BOOTSTRAP)


def student(values: Sequence[float]) -> Interval | None:
    """Student's t interval of the mean of `values`, one per seed; None for fewer than three.

    If the values are normally distributed it misses the mean in 5 % of cases, with three values as with many. The
    bootstrap of three values misses it in 25 %: it reaches from the smallest to the largest.
    """
    if len(values) < FEWEST:
        return None
    half = _t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return Interval(mean - half, mean + half, STUDENT)


def _t_quantile(freedom: int) -> float:
    """The t for which Student's distribution has `LEVEL` of its mass within +-t, by bisection."""
    low, high = 0.0, 16.0  # 4.3 for two degrees of freedom, the fewest here
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < LEVEL else (low, middle)
    return (low + high) / 2


def _t_within(t: float, freedom: int) -> float:
    """The mass of Student's distribution within +-t, freedom > 1. Source: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    even = freedom % 2 == 0
    term = total = 1.0 if even else math.cos(angle)
    for k in range(2 if even else 3, freedom, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    return math.sin(angle) * total if even else 2 / math.pi * (angle + math.sin(angle) * total)


def paired_difference(ours: dict[int, float], theirs: dict[int, float]) -> Difference | None:
    """The mean of ours minus theirs over their common seeds, with Student's t interval; None if there are none."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    gaps = [ours[seed] - theirs[seed] for seed in seeds]
    return Difference(statistics.mean(gaps), student(gaps), len(seeds))


def describe_difference(ours: str, theirs: str, difference: Difference | None, what: str, digits: int = 3) -> str:
    """A sentence: lower, higher, no difference shown, or why there is no statement."""
    if difference is None:
        return f"{ours} and {theirs} share no finished seed, so they cannot be compared."
    size = f"{abs(difference.mean):.{digits}f}"
    n = f"{difference.seeds} paired seed{'s' if difference.seeds > 1 else ''}"
    interval = difference.interval
    if interval is None:
        way = "higher" if difference.mean > 0 else "lower"
        found = f"{size} {way}" if difference.mean else "equal"
        return f"{ours} against {theirs}: {found} {what} in {n}; no interval can be given for fewer than {FEWEST}."
    span = f"[{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
    if not difference.shown:
        return f"{ours} and {theirs}: no difference shown; the interval {span} of the difference holds 0 ({n})."
    way = "higher" if difference.mean > 0 else "lower"
    return f"{ours} is {way} than {theirs} by {size} {what}, interval {span} ({n})."
