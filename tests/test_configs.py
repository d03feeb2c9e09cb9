"""Configs from plain data: all mistakes at once, each with its key and what was expected."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml

from matrixstate.configs import decode, encode, load_yaml, override
from matrixstate.errors import ConfigError, require
from matrixstate.mixers import GatedConvConfig, MRUConfig
from matrixstate.models import PRESETS, count
from matrixstate.training import CHOICES, TaskRunConfig, TextRunConfig, load_config

SHIPPED = Path(__file__).parents[1] / "configs"  # those of configs/compare are read in tests/comparison
MODEL = {"width": 16, "blocks": [{"mixer": {"kind": "mru", "heads": 1}, "mlp": {}}]}


@dataclass(frozen=True)
class Inner:
    size: int
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        require((self.size > 0, f"size: expected at least 1, got {self.size}"))


@dataclass(frozen=True)
class Outer:
    inner: Inner
    many: tuple[Inner, ...] = ()
    rate: float = 0.5
    name: str | None = None
    on: bool = False


def problems(cls, data, choices=None):
    with pytest.raises(ConfigError) as caught:
        decode(cls, data, choices or {})
    return list(caught.value.problems)


def test_all_mistakes_are_reported_at_once():
    data = {
        "inner": {"size": "big", "kind": "c", "sise": 1},
        "many": [{"size": 1}, {"size": 0}, {}],
        "rate": "x",
        "on": 1,
    }
    assert problems(Outer, data) == [
        "inner.sise: unknown key; did you mean 'size'?",
        "inner.size: expected a whole number, got 'big'",
        "inner.kind: expected one of a, b, got 'c'",
        "many.1.size: expected at least 1, got 0",
        "many.2.size: missing",
        "rate: expected a number, got 'x'",
        "on: expected true or false, got 1",
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([], "config: expected a mapping of options, got []"),
        ({"inner": 3}, "inner: expected a mapping of options, got 3"),
        ({"inner": {"size": True}}, "inner.size: expected a whole number, got True"),
        ({"inner": {"size": 1}, "many": 3}, "many: expected a list, got 3"),
        ({"inner": {"size": 1}, "name": 3}, "name: expected text, got 3"),
        ({"inner": {"size": 1}, "zzz": 3}, "zzz: unknown key; known: inner, many, name, on, rate"),
        ({}, "inner: missing"),
    ],
)
def test_each_mistake_has_its_sentence(data, expected):
    assert problems(Outer, data) == [expected]


def test_numbers_may_be_in_scientific_notation_or_integers():
    assert decode(Outer, {"inner": {"size": 1}, "rate": "1e-3"}, {}).rate == 1e-3
    assert decode(Outer, {"inner": {"size": 1}, "rate": 2}, {}).rate == 2.0


def test_a_number_beyond_any_is_refused():
    assert problems(Outer, {"inner": {"size": 1}, "rate": 10**400}) == [f"rate: expected a number, got {10**400}"]


def test_a_date_is_text(tmp_path):
    (tmp_path / "c.yaml").write_text("name: 2024-13-45\nother: 2024-01-01")
    assert load_yaml(tmp_path / "c.yaml") == {"name": "2024-13-45", "other": "2024-01-01"}
    assert override({}, ["name=2024-13-45"]) == {"name": "2024-13-45"}


def test_mixers_are_chosen_by_name():
    run = decode(TextRunConfig, {"name": "x", "model": MODEL}, CHOICES)
    assert run.model.blocks[0].mixer == MRUConfig(heads=1)
    short = {**MODEL, "blocks": [{"mixer": "conv"}]}
    assert decode(TextRunConfig, {"name": "x", "model": short}, CHOICES).model.blocks[0].mixer == GatedConvConfig()
    for mixer, expected in (
        ("mrv", "model.blocks.0.mixer: unknown name 'mrv'; did you mean 'mru'?"),
        (
            {"heads": 1},
            "model.blocks.0.mixer: expected a mapping with a kind, one of mru, mru_attention, ",
        ),
        ({"kind": "mru", "headz": 1}, "model.blocks.0.mixer.headz: unknown key; did you mean 'heads'?"),
    ):
        data = {"name": "x", "model": {**MODEL, "blocks": [{"mixer": mixer}]}}
        assert problems(TextRunConfig, data, CHOICES)[0].startswith(expected)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_encoding_and_decoding(name):
    run = decode(TextRunConfig, {"name": "x", "model": name}, CHOICES)
    data = yaml.safe_load(yaml.safe_dump(encode(run, CHOICES)))
    assert decode(TextRunConfig, data, CHOICES) == run


def test_an_unknown_preset_is_refused():
    assert problems(TextRunConfig, {"name": "x", "model": "shakespeare-mro"}, CHOICES) == [
        "model: unknown name 'shakespeare-mro'; did you mean 'shakespeare-mru'?"
    ]


def test_overrides_set_nested_options_and_change_nothing_else():
    data = {"a": {"b": [1, {"c": 2}]}, "d": 3}
    assert override(data, ["a.b.1.c=9", "e.f=[1, 2]", "d=x"]) == {
        "a": {"b": [1, {"c": 9}]},
        "d": "x",
        "e": {"f": [1, 2]},
    }
    assert data == {"a": {"b": [1, {"c": 2}]}, "d": 3}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("a.b", "--set a.b: expected KEY.KEY=VALUE"),
        ("=3", "--set =3: expected KEY.KEY=VALUE"),
        ("a..b=3", "expected KEY.KEY=VALUE"),
        ("a.b.7=3", "expected an index below 1, got '7'"),
        ("a.b.x=3", "expected an index below 1, got 'x'"),
        ("d.e=3", "expected a mapping of options with 'e' in it, got 3"),
        ("d=[", "--set d=[: not YAML: "),
        ("d=0x_", "--set d=0x_: not YAML: "),
        ("d={e: 1, f: 2, e: 3}", "e: expected one value, got a second in line 1"),
    ],
)
def test_wrong_overrides_are_refused(assignment, message):
    with pytest.raises(ConfigError) as caught:
        override({"a": {"b": [1]}, "d": 3}, [assignment])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: 0x_", "not YAML"),
        (b"a: {b: 1}\nc: 2\na: {d: 3}", "c.yaml: a: expected one value, got a second in line 3"),
        (b"a:\n  b: 1\n  b: 1", "c.yaml: b: expected one value, got a second in line 3"),
        (b"- 1", "expected a mapping of options, got list"),
        (b"", "expected a mapping of options, got NoneType"),
        (b"a: !!python/object/apply:os.system ['true']", "not YAML"),
    ],
)
def test_a_file_that_is_no_config_is_refused(content, message, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_yaml(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_yaml(tmp_path / "none.yaml")


def test_a_run_is_named_after_its_file(tmp_path):
    path = tmp_path / "my-run.yaml"
    path.write_text(yaml.safe_dump({"model": MODEL}))
    assert load_config(path).name == "my-run"
    with pytest.raises(ConfigError, match="name: expected letters, digits, '-', '_' and '.', got '../up'"):
        load_config(path, ["name=../up"])
    with pytest.raises(ConfigError, match="training.sequence: expected at most 8, the learned positions, got 64"):
        load_config(path, ["model.learned_positions=8"])


@pytest.mark.parametrize("path", sorted((SHIPPED / "shakespeare").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_for_a_text_name_no_path_and_are_of_one_size(path):
    config = load_config(path)
    assert not config.data.files
    model = dataclasses.replace(config.model, vocabulary=65)
    assert abs(count(model, 64).parameters / 804_000 - 1) < 0.02


@pytest.mark.parametrize("path", sorted((SHIPPED / "tasks").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_for_a_task_are_tested_beyond_their_training(path):
    config = load_config(path)
    assert isinstance(config, TaskRunConfig)
    assert config.evaluate_length >= 64 * config.training.length


def test_every_shipped_config_is_read_by_some_test():
    assert {path.parent.name for path in SHIPPED.rglob("*.yaml")} == {"shakespeare", "tasks", "compare"}
