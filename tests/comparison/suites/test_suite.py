"""Suites from plain data: defaults, what is common to all entries, and every mistake at once."""

import re
from pathlib import Path

import pytest
import yaml
from tiny import block, task_data, text_data

from matrixstate.comparison import TextSuite, load_suite, make_suite
from matrixstate.comparison.suites.entries import with_option
from matrixstate.comparison.suites.files import as_data
from matrixstate.comparison.suites.set import SuiteSet, load_any, make_set
from matrixstate.comparison.suites.suite import TaskSuite
from matrixstate.errors import ConfigError


def problems(data, *assignments):
    with pytest.raises(ConfigError) as caught:
        make_suite(data, assignments)
    return caught.value.problems


def test_common_training_options_apply_unless_an_entry_sets_them(tmp_path):
    data = text_data(tmp_path)
    data["models"][1]["training"] = {"learning_rate": 0.5, "steps": 9}
    suite = make_suite(data, ["training.batch=7"])
    assert isinstance(suite, TextSuite)
    conv, gru = (entry.training for entry in suite.models)
    assert (conv.steps, conv.batch, conv.learning_rate) == (6, 7, 1e-3)
    assert (gru.steps, gru.batch, gru.learning_rate) == (9, 7, 0.5)
    assert suite.reference == "conv"
    assert suite.models[0].title == "a <convolution>"


@pytest.mark.parametrize("kind", ["text", "task"])
def test_plain_data_and_back(kind, tmp_path):
    data = task_data() if kind == "task" else text_data(tmp_path, match={"by": "parameters"})
    suite = make_suite(data)
    assert make_suite(yaml.safe_load(yaml.safe_dump(as_data(suite)))) == suite
    assert isinstance(suite, TaskSuite) == (kind == "task")


def test_a_file_names_its_suite(tmp_path):
    data = text_data(tmp_path)
    del data["name"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(data))
    other = tmp_path / "other.txt"
    suite = load_suite(tmp_path / "mine.yaml", ["seeds=4"], [other])
    assert (suite.name, suite.all_seeds) == ("mine", (0, 1, 2, 3))
    assert suite.data.files == (str(other),)


def test_all_mistakes_come_at_once(tmp_path):
    data = text_data(tmp_path, seeds=0, control="gruu", learning_rates=[1e-3, 1e-3], match={"by": "params"})
    data["models"].append(dict(data["models"][0]))
    data["models"][0]["model"]["width"] = -1
    data["training"]["stepz"] = 3
    assert sorted(problems(data)) == [
        "match.by: expected one of parameters, state_bytes, flops, wall_time, got 'params'",
        "models.0.model.width: expected at least 1, got -1",
        "models.2.model.width: expected at least 1, got -1",
        "training.stepz: unknown key; did you mean 'steps'?",
    ]
    data["models"][0]["model"]["width"] = 16
    data["match"], data["trial_seed"] = None, 0
    del data["training"]["stepz"]
    found = problems(data)
    assert found == (
        "seeds: expected at least 1, got 0",
        "learning_rates: expected different positive numbers, got [0.001, 0.001]",
        "models: name: expected each once, got 'conv' 2 times",
        "control: expected the name of an entry, got 'gruu'; did you mean 'gru'?",
    )


def test_an_invalid_suite_is_refused(tmp_path):
    data = text_data(tmp_path)
    assert problems({**data, "models": []}) == ("models: expected at least one entry, got none",)
    assert problems(data, "learning_rates=[1e-3, 2e-3]", "trial_seed=1") == (
        "trial_seed: expected a seed that the comparison does not use, got 1",
    )
    assert problems(data, "models.1.vary=blocks.0.mixer.haeds", "match={by: parameters}") == (
        "models: gru: vary: no such integer option: 'blocks.0.mixer.haeds'; did you mean 'blocks.0.mixer.heads'?",
    )
    assert problems(data, "match={by: state_bytes}") == (
        "models: gru: vary: expected the option that sets the state's size, got none",
    )
    assert problems(data, "models.1.training.sequence=8") == (
        "models: training.sequence: expected one length for all, got [8, 16]",
    )
    assert problems(data, "task=parity")[0].startswith("task: unknown key; known: control, data, ")
    assert problems(data, "training=3") == ("training: expected a mapping of options, got 3",)
    assert problems(task_data(value_length=33)) == ("value_length: expected 1 to evaluate_length = 32, got 33",)
    recall = {"kind": "mqar", "symbols": 16, "pairs": 2}
    assert problems(task_data(data=recall, value_length=24)) == (
        "value_length: expected one of the lengths measured, 8, 16, 32, got 24",
    )
    assert [make_suite(task_data(data=recall, value_length=n)).measured_to for n in (8, 16, 32)] == [8, 16, 32]
    assert problems(task_data(evaluate_length=4, solved=0, match={"by": "flops"})) == (
        "match.by: expected parameters or state_bytes for a task, whose curriculum sets the cost, got flops",
        "solved: expected an accuracy above 0, got 0.0",
        "evaluate_length: expected at least 8, the longest of training, got 4",
    )


def test_a_number_is_set_in_every_block(tmp_path):
    data = text_data(tmp_path)
    data["models"][0]["model"]["blocks"] = [block(hidden=3), {"mixer": "conv"}, {"mlp": {}}]
    changed = with_option(make_suite(data).entries[0].model, "blocks.*.mlp.hidden", 11)
    assert [None if b.mlp is None else b.mlp.hidden for b in changed.blocks] == [11, None, 11]


ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/compare/*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_suites_are_valid(path):
    suite = load_any(path)
    assert suite.seeds >= 3
    for part in suite.parts.values() if isinstance(suite, SuiteSet) else (suite,):
        assert part.control is not None


def test_the_suites_of_the_document_are_valid():
    document = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    suite, parts = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", document, re.DOTALL))
    entries = make_suite({"name": "document", **suite}).entries
    assert [entry.training.weight_decay for entry in entries] == [0.1, 0.01]
    several = make_set({"name": "document", **parts})
    assert [part.kind for part in several.parts.values()] == ["task", "task", "text"]
