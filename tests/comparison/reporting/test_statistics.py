"""Intervals against closed forms and published values; sentences that agree with the numbers."""

import math
import statistics

import numpy as np
import pytest

from matrixstate.comparison.reporting.statistics import (
    Difference,
    Interval,
    bootstrap,
    describe_difference,
    paired_difference,
    student,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # R: binom::binom.wilson, and Newcombe 1998, table I
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (5, 5, 0.5655, 1.0),
    ],
)
def test_wilsons_interval_is_that_of_the_literature(successes, trials, low, high):
    found = wilson(successes, trials)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_wilsons_interval_is_symmetric_in_success_and_failure():
    for k in range(8):
        one, other = wilson(k, 7), wilson(7 - k, 7)
        assert one.low == pytest.approx(1 - other.high)
    with pytest.raises(ValueError, match="0 <= successes <= trials"):
        wilson(3, 2)


def test_the_bootstrap_nears_the_normal_interval_of_many_values():
    values = [((i * 7919) % 1000) / 1000 for i in range(1000)]
    found = bootstrap(values)
    half = 1.96 * statistics.pstdev(values) / len(values) ** 0.5
    assert found is not None
    assert found.low == pytest.approx(statistics.mean(values) - half, abs=1e-3)
    assert found.high == pytest.approx(statistics.mean(values) + half, abs=1e-3)


def test_the_bootstrap_of_three_values_is_exact_at_its_ends():
    # each extreme mean, three times the same value, has probability 1/27 > 2.5 %
    assert bootstrap([1.0, 2.0, 6.0]) == Interval(1.0, 6.0, bootstrap([0.0, 0.0, 0.0]).method)
    assert bootstrap([1.0, 2.0]) is None
    assert bootstrap([1.0, 5.0, 2.0]) == bootstrap([1.0, 5.0, 2.0])


@pytest.mark.parametrize(
    ("count", "quantile"), [(3, 4.302653), (4, 3.182446), (5, 2.776445), (10, 2.262157), (31, 2.042272)]
)  # the tables of Student's distribution, 97.5 %
def test_students_interval_is_that_of_the_tables(count, quantile):
    values = [float(i % 3) + i for i in range(count)]
    half = quantile * statistics.stdev(values) / count**0.5
    found = student(values)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((statistics.mean(values) - half, statistics.mean(values) + half))


@pytest.mark.parametrize("count", [3, 5])
def test_without_a_difference_one_in_twenty_is_shown(count):
    gaps = np.random.default_rng(0).normal(size=(4000, count)).tolist()
    shown = [paired_difference(dict(enumerate(row)), dict.fromkeys(range(count), 0.0)) for row in gaps]
    assert sum(found is not None and found.shown for found in shown) / len(gaps) == pytest.approx(0.05, abs=0.012)


def test_nan_shows_no_difference():
    found = paired_difference({0: 1.0, 1: math.nan, 2: 3.0}, dict.fromkeys(range(3), 0.0))
    assert found is not None
    assert not found.shown


def test_differences_are_paired_by_seed():
    ours, theirs = {0: 1.0, 1: 2.0, 2: 3.0, 9: 50.0}, {2: 2.9, 0: 0.9, 1: 1.901}
    found = paired_difference(ours, theirs)
    assert found is not None
    assert found.seeds == 3
    assert found.mean == pytest.approx(0.0997, abs=1e-4)
    assert found.shown  # though the spread between seeds is ten times the difference
    assert paired_difference({1: 1.0}, {2: 1.0}) is None


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (None, "A and B share no finished seed, so they cannot be compared."),
        (
            Difference(-0.05, None, 2),
            "A against B: 0.050 lower bits in 2 paired seeds; no interval can be given for fewer than 3.",
        ),
        (
            Difference(0.0, None, 1),
            "A against B: equal bits in 1 paired seed; no interval can be given for fewer than 3.",
        ),
        (
            Difference(0.01, Interval(-0.01, 0.03, ""), 3),
            "A and B: no difference shown; the interval [-0.010, +0.030] of the difference holds 0 (3 paired seeds).",
        ),
        (
            Difference(-0.02, Interval(-0.03, -0.01, ""), 5),
            "A is lower than B by 0.020 bits, interval [-0.030, -0.010] (5 paired seeds).",
        ),
    ],
)
def test_a_difference_in_a_sentence(difference, sentence):
    assert describe_difference("A", "B", difference, "bits") == sentence
