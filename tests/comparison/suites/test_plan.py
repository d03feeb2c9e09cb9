"""What cannot be trained is refused before anything is written, with a sentence for each mistake."""

import pytest
from tiny import block, task_data, text_data

from matrixstate.comparison import make_suite
from matrixstate.comparison.suites.plan import make_plan
from matrixstate.errors import ConfigError

LEARNED = block({"kind": "attention", "heads": 1, "positions": "learned", "max_positions": 12})
MQAR = {"kind": "mqar", "symbols": 16, "pairs": 2}
NAMES = "expected the name of a parameter, such as blocks.0.mlp.output.weight, or one with * in it, got 'mixr'"


def problems(data, *assignments):
    suite = make_suite(data, assignments)
    with pytest.raises(ConfigError) as caught:
        make_plan(suite)
    return caught.value.problems


def test_a_length_that_the_task_does_not_have_is_refused():
    data = task_data(data=MQAR)
    assert problems(data) == ("training.start: expected at least 8 for 2 pairs, got 2",)
    for right in ("training.start=8", "training.lengths=full"):
        assert make_plan(make_suite(data, [right])).sizes[0].entry == "gru"
    assert problems(data, "data.pairs=3", "training.lengths=full") == (
        "training.length: expected at least 12 for 3 pairs, got 8",
    )
    assert problems(data, "data.pairs=3", "training.length=9", "training.start=9", "evaluate_length=9") == (
        "training.start: expected at least 12 for 3 pairs, got 9",
        "training.length: expected at least 12 for 3 pairs, got 9",
        "evaluate_length: expected at least 12 for 3 pairs, got 9",
    )


def test_every_mistake_names_its_entries():
    model = {"width": 8, "blocks": [LEARNED]}
    data = task_data()
    data["models"].append({"name": "attention", "model": model, "training": {"length": 16, "codebooks": "trained"}})
    assert problems(data, "training.rates=[{parameters: mixr, factor: 2}]") == (
        f"training.rates.0.parameters: {NAMES}",
        "models: attention: training.length: expected at most 12, the learned positions, got 16",
        "models: attention: evaluate_length: expected at most 12, the learned positions, got 32",
    )
    assert problems(data, "models.0.training.codebooks=answers") == (
        "models: gru: training.codebooks: expected trained without an MRU that corrects its state (snap), got answers",
        "models: gru: training.length: expected more than 8 for codebooks made of answers, got 8",
        "models: attention: training.length: expected at most 12, the learned positions, got 16",
        "models: attention: evaluate_length: expected at most 12, the learned positions, got 32",
    )


def test_rates_and_positions_are_checked_for_a_text_too(tmp_path):
    data = text_data(tmp_path)
    data["models"][0]["model"]["blocks"] = [LEARNED]
    data["models"][1]["training"] = {"rates": [{"parameters": "mixr", "factor": 2}]}
    assert problems(data) == (
        "models: conv: training.sequence: expected at most 12, the learned positions, got 16",
        f"models: gru: training.rates.0.parameters: {NAMES}",
    )
