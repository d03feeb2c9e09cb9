"""The judges of claims: pure functions of the rows of results.csv. Their reasons give the numbers."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from matrixstate.comparison.reporting.statistics import FEWEST, describe_difference, paired_difference
from matrixstate.comparison.reporting.summary import Line, summarise
from matrixstate.comparison.running.tables import Result, by_entry

ORTHOGONAL = ("cayley", "matrix_exp", "householder")
SCALED = ("scalar_det", "scalar_frobenius")
SOLVED = 0.995  # accuracies: solved up to the compared length,
LEARNED = 0.95  # learned at the training length,
UNLEARNED = 0.6  # not learned there,
DROP = 0.1  # lost beyond it
NEAR = 0.05  # relative difference of losses that counts as near
LITTLE = 0.9  # relative speed from which a slowdown counts as little


@dataclass(frozen=True)
class Verdict:
    """The verdict of the results on a claim."""

    outcome: Literal["reproduced", "not reproduced", "undecided"]
    reasons: tuple[str, ...]
    """One sentence per part of the band: yes, no or open, with its numbers."""


Part = tuple[bool | None, str]  # of the band: whether it holds, None if open, and a sentence


def decide(parts: Iterable[Part]) -> Verdict:
    """Reproduced if every part holds, not reproduced if any does not, undecided if some are open."""
    parts = list(parts)
    held = [holds for holds, _ in parts]
    outcome = "not reproduced" if False in held else "undecided" if None in held or not held else "reproduced"
    words = {True: "Yes", False: "No", None: "Open"}
    return Verdict(outcome, tuple(f"{words[holds]}: {reason}" for holds, reason in parts))


def _lines(rows: Sequence[Result]) -> dict[str, Line]:
    return {line.first.entry: line for line in summarise(rows)}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def below(rows: Sequence[Result], better: str, worse: str) -> Part:
    """Whether one entry's value is below another's, over paired seeds, with an interval that excludes 0."""
    lines = _lines(rows)
    if better not in lines or worse not in lines:
        return None, f"{better} and {worse} do not both have results."
    one, other = lines[better], lines[worse]
    gap = paired_difference(one.values, other.values)
    reason = describe_difference(one.title, other.title, gap, rows[0].metric)
    if gap is None or gap.interval is None:
        return None, reason
    return gap.shown and gap.mean < 0, reason


def judge_s3(rows: Sequence[Result]) -> Verdict:
    """M²RNN's Figure 3."""
    groups = by_entry(rows)

    def solves(entry: str) -> Part:
        mine = groups.get(entry, [])
        good = sum(row.value is not None and row.value >= SOLVED for row in mine)
        reason = f"{entry} reaches {SOLVED:.1%} up to the length compared in {good} of {len(mine)} seeds."
        return (good >= 0.8 * len(mine), reason) if len(mine) >= FEWEST else (None, reason)

    def at_both(entry: str) -> tuple[float | None, float | None, int]:
        mine = groups.get(entry, [])
        return _mean(r.value_at_train_length for r in mine), _mean(r.value for r in mine), len(mine)

    trained, longest, n = at_both("gdn")
    reason = f"gdn gets {_share(trained)} right at the training length (not learned: below {UNLEARNED:.0%})."
    unlearned: Part = (None if n < FEWEST or trained is None else trained < UNLEARNED, reason)
    trained, longest, n = at_both("gdp2")
    reason = (
        f"gdp2 gets {_share(trained)} right at the training length and {_share(longest)} up to the length compared."
    )
    falls: Part = (None, reason)
    if n >= FEWEST and trained is not None and longest is not None:
        falls = (trained >= LEARNED and trained - longest >= DROP, reason)
    return decide([solves("m2rnn"), solves("gru"), unlearned, falls])


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def judge_shakespeare(rows: Sequence[Result]) -> Verdict:
    """One mixer among MLPs: MRU against attention, and both against none."""
    return decide([below(rows, "mru", "mlp"), below(rows, "attention", "mlp"), below(rows, "mru", "attention")])


def judge_constructions(rows: Sequence[Result]) -> Verdict:
    """The order of the constructions of matrices, as their author gives it."""
    lines = _lines(rows)
    others = [name for name in lines if name not in ("ldu", "mlp")]
    parts = [below(rows, "ldu", name) for name in SCALED]
    parts += [_hardly(lines, name) for name in ORTHOGONAL]
    better = [below(rows, name, "ldu") for name in others]
    beaten = [reason for holds, reason in better if holds]
    open_ = any(holds is None for holds, _ in better)
    parts.append((False if beaten else None if open_ else True, beaten[0] if beaten else "nothing is shown below LDU."))
    return decide(parts)


def _hardly(lines: dict[str, Line], name: str) -> Part:
    """Whether an entry gains hardly anything over MLPs alone: less than half of what LDU gains."""
    own, ldu, mlp = (lines[key].mean if key in lines else None for key in (name, "ldu", "mlp"))
    if own is None or ldu is None or mlp is None or len(lines[name].values) < FEWEST:
        return None, f"{name}, ldu and mlp do not all have {FEWEST} seeds."
    reason = f"{name} gains {mlp - own:.3f} over MLPs alone, LDU {mlp - ldu:.3f} (hardly: less than half)."
    return mlp - own < (mlp - ldu) / 2, reason


def _steady(line: Line) -> Part:
    """Whether the training of every seed finished."""
    n = len(line.values) + len(line.failed)
    holds = False if line.failed else True if n >= FEWEST else None
    return holds, f"{line.first.entry} finished in {len(line.values)} of {n} seeds."


def judge_near(ours: str, theirs: str) -> Callable[[Sequence[Result]], Verdict]:
    """A judge of: ours trains in every seed, its loss is within 5 % of theirs, and below that of MLPs alone."""

    def judge(rows: Sequence[Result]) -> Verdict:
        lines = _lines(rows)
        mine, other = lines.get(ours), lines.get(theirs)
        if mine is None or other is None or mine.mean is None or other.mean is None:
            return decide([(False if mine is not None and mine.failed else None, f"{ours} or {theirs} has no value.")])
        ratio = mine.mean / other.mean
        reason = f"its loss is {ratio:.3f} of that of {theirs} (near: at most {1 + NEAR:.2f})."
        near: Part = (ratio <= 1 + NEAR if len(mine.values) >= FEWEST else None, reason)
        return decide([_steady(mine), near, below(rows, ours, "mlp")])

    return judge


def judge_tinystories(rows: Sequence[Result]) -> Verdict:
    """MRU trains in every seed, beats MLPs alone, and does not beat attention."""
    mine = _lines(rows).get("mru")
    steady: Part = (None, "mru has no results.") if mine is None else _steady(mine)
    holds, reason = below(rows, "mru", "attention")
    return decide([steady, below(rows, "mru", "mlp"), (None if holds is None else not holds, reason)])


def judge_hybrids(rows: Sequence[Result]) -> Verdict:
    """One M²RNN layer helps a Gated DeltaNet hybrid, and a hybrid of M²RNN is better than both."""
    return decide([below(rows, "gdn-one-m2rnn", "gdn"), below(rows, "m2rnn", "gdn")])


def judge_state_size(rows: Sequence[Result]) -> Verdict:
    """A larger state gives a lower loss."""
    lines = sorted(_lines(rows).values(), key=lambda line: line.first.state_bytes)
    means = [line.mean for line in lines if line.mean is not None]
    if len(lines) < 2 or len(means) < len(lines):
        return decide([(None, "not every size has a value.")])
    falls = all(later < earlier for earlier, later in itertools.pairwise(means))
    shown = ", ".join(f"{line.first.state_bytes:,} B {line.mean:.3f}" for line in lines)
    enough = min(len(line.values) for line in lines) >= FEWEST
    ends = below(rows, lines[-1].first.entry, lines[0].first.entry)
    return decide([(falls if enough else None, f"the loss falls with every size: {shown}."), ends])


def judge_throughput(rows: Sequence[Result]) -> Verdict:
    """A step of the swapped model costs little more."""
    took = {entry: _mean(row.step_cpu_seconds for row in mine) for entry, mine in by_entry(rows).items()}
    whole, swapped = took.get("gdn"), took.get("gdn-one-m2rnn")
    if whole is None or swapped is None:
        return decide([(None, "the time of a step is not known.")])
    ratio = whole / swapped
    reason = f"with one layer swapped it trains at {ratio:.0%} of the speed (little: at least {LITTLE:.0%})."
    return decide([(ratio >= LITTLE, reason)])


JUDGES: dict[str, Callable[[Sequence[Result]], Verdict]] = {
    "m2rnn-s3": judge_s3,
    "mru-shakespeare": judge_shakespeare,
    "mru-constructions": judge_constructions,
    "mru-tinystories": judge_tinystories,
    "linear-transformer-tinystories": judge_near("linear-transformer", "attention"),
    "hybrid-swap": judge_hybrids,
    "state-size": judge_state_size,
    "throughput-swap": judge_throughput,
}
