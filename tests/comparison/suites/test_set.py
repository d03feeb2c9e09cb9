"""Suites of several parts from plain data: what holds for which part, and every mistake at once."""

import pytest
import yaml
from tiny import set_data

from matrixstate.comparison.suites.set import SuiteSet, load_any, make_set
from matrixstate.errors import ConfigError


def problems(data, *assignments, files=()):
    with pytest.raises(ConfigError) as caught:
        make_set(data, assignments, files)
    return sorted(caught.value.problems)


def test_common_options_apply_unless_a_part_sets_them(tmp_path):
    data = set_data(tmp_path)
    data["models"][1]["training"] = {"learning_rate": 0.5, "steps": 9, "max_batch": 16}
    suite = make_set(data, ["training.batch=4", "parts.parity.evaluate_length=64"])
    parity, cycle, text = suite.parts.values()
    assert [part.kind for part in (parity, cycle, text)] == ["task", "task", "text"]
    assert [part.name for part in (parity, cycle, text)] == ["parity", "cycle", "text"]
    assert [part.title for part in (parity, cycle, text)] == ["Parity & co", None, None]
    assert (parity.evaluate_length, cycle.evaluate_length) == (64, 32)
    assert (parity.learning_rates, cycle.learning_rates) == ((), (1e-3, 1e-2))
    conv, gru = (entry.training for entry in cycle.entries)
    assert (conv.steps, conv.length, conv.batch, conv.max_batch) == (6, 12, 4, 8)
    assert (gru.steps, gru.length, gru.learning_rate, gru.max_batch) == (9, 12, 0.5, 16)
    conv, gru = (entry.training for entry in text.entries)
    assert (conv.steps, conv.sequence, conv.batch) == (7, 16, 4)
    assert (gru.steps, gru.learning_rate) == (9, 0.5)
    assert {part.all_seeds for part in suite.parts.values()} == {(0, 1)}
    assert suite.heading == "Two <tasks> and a text"


def test_plain_data_and_back(tmp_path):
    suite = make_set(set_data(tmp_path), ["parts.cycle.trial_steps=3"])
    assert make_set(yaml.safe_load(yaml.safe_dump(suite.source))) == suite
    wider = suite.with_seeds(5)
    assert (wider.seeds, suite.seeds, suite.with_seeds(None)) == (5, 2, suite)
    with pytest.raises(ConfigError, match="^seeds: expected at least 1, got 0$"):
        suite.with_seeds(0)


def test_a_file_with_parts_is_a_set(tmp_path):
    data = set_data(tmp_path)
    del data["name"], data["title"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    other = tmp_path / "other.txt"
    suite = load_any(tmp_path / "mine.yaml", ["parts.text.data.validation=0.1"], [other])
    assert isinstance(suite, SuiteSet)
    assert (suite.name, suite.heading) == ("mine", "mine")
    assert suite.parts["text"].data.files == (str(other),)
    assert suite.parts["text"].data.validation == 0.1
    assert make_set(suite.source) == suite


def test_a_text_needs_one_part_that_is_trained_on_it(tmp_path):
    data, file = set_data(tmp_path), tmp_path / "a.txt"
    data["parts"]["more"] = {"data": {"source": "shakespeare"}}
    expected = "--text: expected one part that is trained on a text, got "
    assert problems(data, files=[file]) == [f"{expected}text, more"]
    del data["parts"]["text"], data["parts"]["more"]
    assert problems(data, files=[file]) == [f"{expected}none"]
    data["parts"] = {"text": {"data": 3}}
    assert problems(data, files=[file]) == ["data: expected a mapping of options, got 3"]


def test_all_mistakes_of_all_parts_come_at_once(tmp_path):
    data = set_data(tmp_path, evaluate_lenght=9)
    data["models"][0]["model"]["width"] = -1
    data["training"]["stepz"] = 3
    data["parts"]["parity"]["solvd"] = 1
    data["parts"]["cycle"]["training"]["start"] = 99
    data["parts"]["text"]["evaluate_length"] = 8
    found = problems(data, "parts.cycle.match={by: params}", "parts.cycle.seeds=3", "parts.text.models=[]", "title=[3]")
    assert [one.partition("; known")[0] for one in found] == [
        "evaluate_lenght: unknown key; did you mean 'evaluate_length'?",
        "models.0.model.width: expected at least 1, got -1",
        "parts.cycle.match.by: expected one of parameters, state_bytes, flops, wall_time, got 'params'",
        "parts.cycle.seeds: expected beside parts, for all of them",
        "parts.cycle.training.start: expected at most length = 12, got 99",
        "parts.parity.solvd: unknown key; did you mean 'solved'?",
        "parts.text.evaluate_length: unknown key",
        "parts.text.models: expected beside parts, for all of them",
        "title: expected text, got [3]",
        "training.stepz: unknown key; did you mean 'steps'?",
    ]


def test_a_problem_of_some_parts_is_reported_once_with_their_names(tmp_path):
    assert problems(set_data(tmp_path), "seeds=0", "control=gruu") == [
        "control: expected the name of an entry, got 'gruu'; did you mean 'gru'?",
        "seeds: expected at least 1, got 0",
    ]
    assert problems(set_data(tmp_path), "value_length=33") == [
        "parts.parity, parts.cycle: value_length: expected 1 to evaluate_length = 32, got 33"
    ]
    assert problems(set_data(tmp_path), "parts.parity.data.lenght=3") == [
        "--set parts.parity.data.lenght=3: expected a mapping of options with 'lenght' in it, got 'parity'"
    ]


def test_an_assignment_adds_no_part(tmp_path):
    assert problems(set_data(tmp_path), "parts.cyle.training.clip=0.5") == [
        "--set parts.cyle: expected one of parity, cycle, text"
    ]


def test_a_common_option_that_no_part_has_is_a_mistake(tmp_path):
    data = set_data(tmp_path)
    del data["parts"]["text"]
    wrong = ("evaluate_every", "sequence")
    assert [one.split(": ")[0] for one in problems(data)] == [f"training.{name}" for name in wrong]
    for assignments in (["training=3"], ["training=3", "parts.parity.training={}"]):
        assert "training: expected a mapping of options, got 3" in problems(set_data(tmp_path), *assignments)
    wrong = "parts.cycle.training: expected a mapping of options, got 3"
    assert problems(set_data(tmp_path), "parts.cycle.training=3") == [wrong]


def test_a_malformed_set_is_refused(tmp_path):
    data = set_data(tmp_path)
    expected = "parts: expected a mapping from names to options, got "
    assert problems({**data, "parts": {}}) == [f"{expected}{{}}"]
    assert problems({**data, "parts": ["parity"]}) == [f"{expected}['parity']"]
    bad = {"../up": {"data": "parity"}, 3: {}, "cycle": 4, "text": data["parts"]["text"]}
    assert problems({**data, "parts": bad, "name": "a/b", "evaluate_length": 32}, "evaluate_sequences=4")[:3] == [
        "evaluate_length: unknown key; known: control, data, first_seed, learning_rates, match, metric, models, name, "
        "seeds, title, trial_seed, trial_steps",
        "evaluate_sequences: unknown key; known: control, data, first_seed, learning_rates, match, metric, models, "
        "name, seeds, title, trial_seed, trial_steps",
        "name: expected letters, digits, '-', '_' and '.', got 'a/b'",
    ]
    assert problems({**data, "parts": bad})[-5:-2] == [
        "parts.cycle: expected a mapping of options, got 4",
        "parts: expected names of letters, digits, '-', '_' and '.', got '../up'",
        "parts: expected names of letters, digits, '-', '_' and '.', got 3",
    ]
    assert problems(data, "parts.text.task=parity")[0].startswith("parts.text.task: unknown key; known: ")
