"""Every claim has a suite that can be run, a judge, and verdicts that follow from the numbers."""

import pytest
from tiny import row

from matrixstate.comparison.claims import all_claims, find_claim
from matrixstate.comparison.claims.judges import JUDGES, decide
from matrixstate.errors import ConfigError

NAMES = [claim.name for claim in all_claims()]


def test_the_claims_are_those_that_have_a_judge():
    assert sorted(JUDGES) == NAMES
    with pytest.raises(ConfigError, match="no claim is named 'm2rnn-s4'; did you mean 'm2rnn-s3'"):
        find_claim("m2rnn-s4")


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_is_complete(name):
    claim = find_claim(name)
    for text in (claim.statement, claim.source, claim.band, claim.cost, claim.smoke_cost):
        assert len(text) > 5
    full, short = claim.suite(), claim.suite(smoke=True)
    assert full.seeds >= 3
    assert short.name != full.name
    assert claim.suite(changes=["seeds=7"]).seeds == 7
    assert {entry.name for entry in full.entries} == {entry.name for entry in short.entries}
    assert JUDGES[name]([]).outcome == "undecided"


def test_parts_make_a_verdict():
    assert decide([(True, "a"), (True, "b")]).outcome == "reproduced"
    assert decide([(True, "a"), (None, "b")]).outcome == "undecided"
    assert decide([(True, "a"), (None, "b"), (False, "c.")]).outcome == "not reproduced"
    assert decide([(True, "a."), (None, "b."), (False, "c.")]).reasons == ("Yes: a.", "Open: b.", "No: c.")


def rows(values, seeds=3, **changes):
    return [
        row(entry, seed, value + seed / 1000, control=next(iter(values)), **changes)
        for entry, value in values.items()
        for seed in range(seeds)
    ]


def tracked(values, seeds=5):
    """entry -> (accuracy at the training length, up to the longest)."""
    return [
        row(entry, seed, longest, kind="task", better="higher", value_at_train_length=trained)
        for entry, (trained, longest) in values.items()
        for seed in range(seeds)
    ]


FIGURE_3 = {"m2rnn": (1.0, 1.0), "gru": (1.0, 0.999), "gdn": (0.3, 0.2), "gdp2": (0.99, 0.7)}


@pytest.mark.parametrize(
    ("name", "found", "outcome"),
    [
        ("m2rnn-s3", tracked(FIGURE_3), "reproduced"),
        ("m2rnn-s3", tracked({**FIGURE_3, "m2rnn": (1.0, 0.9)}), "not reproduced"),
        ("m2rnn-s3", tracked({**FIGURE_3, "gdn": (0.9, 0.2)}), "not reproduced"),
        ("m2rnn-s3", tracked({**FIGURE_3, "gdp2": (1.0, 0.99)}), "not reproduced"),
        ("m2rnn-s3", tracked(FIGURE_3, seeds=1), "undecided"),
        ("mru-shakespeare", rows({"mru": 1.0, "attention": 2.0, "mlp": 3.0}), "reproduced"),
        ("mru-shakespeare", rows({"mru": 2.0, "attention": 1.0, "mlp": 3.0}), "not reproduced"),
        ("mru-shakespeare", rows({"mru": 1.0, "attention": 2.0, "mlp": 3.0}, seeds=2), "undecided"),
        ("mru-tinystories", rows({"mru": 1.2, "attention": 1.0, "mlp": 3.0}), "reproduced"),
        ("mru-tinystories", rows({"mru": 0.9, "attention": 1.0, "mlp": 3.0}), "not reproduced"),
        ("mru-tinystories", rows({"mru": 3.2, "attention": 1.0, "mlp": 3.0}), "not reproduced"),
        ("linear-transformer-tinystories", rows({"linear-transformer": 1, "attention": 1, "mlp": 3}), "reproduced"),
        ("linear-transformer-tinystories", rows({"linear-transformer": 2, "attention": 1, "mlp": 3}), "not reproduced"),
        ("hybrid-swap", rows({"gdn": 2.0, "gdn-one-m2rnn": 1.9, "m2rnn": 1.8}), "reproduced"),
        ("hybrid-swap", rows({"gdn": 2.0, "gdn-one-m2rnn": 2.0, "m2rnn": 1.8}), "not reproduced"),
        ("throughput-swap", rows({"gdn": 2.0, "gdn-one-m2rnn": 2.0}, step_cpu_seconds=0.1), "reproduced"),
    ],
)  # fmt: skip
def test_verdicts_follow_from_the_numbers(name, found, outcome):
    assert JUDGES[name](found).outcome == outcome


def test_a_swap_that_costs_much_is_not_reproduced():
    found = rows({"gdn": 2.0}, step_cpu_seconds=0.1) + rows({"gdn-one-m2rnn": 2.0}, step_cpu_seconds=0.2)
    verdict = JUDGES["throughput-swap"](found)
    assert verdict.outcome == "not reproduced"
    assert "50% of the speed" in verdict.reasons[0]


CONSTRUCTIONS = {"ldu": 1.0, "reshape_identity": 1.0, "scalar_det": 1.2, "scalar_frobenius": 1.2, "mlp": 2.0}
CONSTRUCTIONS |= {"cayley": 1.9, "matrix_exp": 1.9, "householder": 1.9, "cayley_qr": 1.1, "ldu_newton_schulz": 1.1}


def test_the_order_of_the_constructions_is_judged():
    judge = JUDGES["mru-constructions"]
    assert judge(rows(CONSTRUCTIONS)).outcome == "reproduced"
    assert judge(rows({**CONSTRUCTIONS, "scalar_det": 1.0})).outcome == "not reproduced"
    assert judge(rows({**CONSTRUCTIONS, "cayley": 1.1})).outcome == "not reproduced"
    better = judge(rows({**CONSTRUCTIONS, "cayley_qr": 0.9}))
    assert better.outcome == "not reproduced"
    assert better.reasons[-1].startswith("No: CAYLEY_QR is lower than LDU by 0.100")


def test_a_larger_state_must_lower_the_loss():
    sizes = {"k2": (10, 2.0), "k4": (20, 1.9), "k8": (40, 1.8)}

    def judged(sizes):
        found = [
            row(name, seed, value + seed / 1000, state_bytes=size)
            for name, (size, value) in sizes.items()
            for seed in range(3)
        ]
        return JUDGES["state-size"](found).outcome

    assert judged(sizes) == "reproduced"
    assert judged({**sizes, "k4": (20, 2.1)}) == "not reproduced"
