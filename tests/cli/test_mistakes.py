"""Every mistake gives one clear error line, and never a traceback."""

import contextlib
import io
import re
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mistakes import MISTAKES
from place import make_place

from matrixstate.cli.__main__ import main
from matrixstate.cli.commands import COMMANDS
from matrixstate.configs import decode
from matrixstate.errors import ConfigError
from matrixstate.training import CHOICES, TextRunConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The directory of all mistakes. Made once: no mistake may change it."""
    place = tmp_path_factory.mktemp("place")
    make_place(place)
    return place


def contents(place):
    return {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def test_the_table_is_long():
    assert len(MISTAKES) >= 60


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gives_its_error_lines(case, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    before = contents(place)
    arguments, expected = MISTAKES[case]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    lines = captured.err.replace(str(place), "PLACE").splitlines()
    assert len(lines) == len(expected)
    for line, message in zip(lines, expected, strict=True):
        pattern = ".+".join(map(re.escape, message.split("...")))
        assert re.fullmatch(f"matrixstate: error: {pattern}", line), line
    assert "Traceback" not in captured.out
    assert contents(place) == before


def quietly(arguments):
    """The exit status of a command, and its output; exceptions other than SystemExit propagate."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue()


WORDS = st.sampled_from(
    [
        "run",
        "config.yaml",
        "beer.txt",
        "empty.txt",
        "none",
        "damaged",
        "--text",
        "--out",
        "--set",
        "--prompt",
        "--tokens",
        "--window",
        "--json",
        "--dry-run",
        "--resume",
        "--accept",
        "--seed",
        "--top-k",
        "--top-p",
        "--temperature",
        "--token",
        "--checkpoint",
        "--load-state",
        "--carry",
        "--greedy",
        "--threads",
        "1",
        "0",
        "-1",
        "2",
        "1e9",
        "nan",
        "x=1",
        "training.steps=1",
        "model.width=0",
        "a",
        "best",
        "latest",
    ]
)
COMMAND = st.sampled_from([name for name in COMMANDS if name not in ("demo", "check")])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(command=COMMAND, words=st.lists(WORDS | st.text(max_size=4), max_size=6))
def test_no_arguments_give_a_traceback(command, words, place, monkeypatch):
    monkeypatch.chdir(place)
    if command == "train" and "--dry-run" not in words:
        words = [*words, "--dry-run"]  # a run that starts is tested elsewhere
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(place, copy, dirs_exist_ok=True, symlinks=True)
        monkeypatch.chdir(copy)
        status, shown = quietly([command, *words])
    assert status in (0, 1, 2)
    assert "Traceback" not in shown


def test_a_nul_in_a_name_is_refused(capsys):
    assert main(["train", "a\0b"]) == 1
    assert capsys.readouterr().err == "matrixstate: error: config a\0b: embedded null byte\n"
    assert main(["generate", "a\0b"]) == 1
    expected = "run: expected a run directory with a\0b/config.yaml: embedded null byte"
    assert expected in capsys.readouterr().err


SCALARS = st.none() | st.booleans() | st.integers(-3, 70) | st.floats() | st.text(max_size=5)
NAMES = st.sampled_from(
    [
        "name",
        "seed",
        "data",
        "model",
        "training",
        "width",
        "blocks",
        "mixer",
        "mlp",
        "kind",
        "heads",
        "steps",
        "batch",
        "source",
        "files",
        "tokenizer",
        "validation",
        "state_size",
        "builder",
        "positions",
        "hidden",
        "activation",
        "norm",
        "mru",
        "m2rnn",
        "attention",
        "conv",
        "shakespeare-mru",
        "repeat",
        "order",
    ]
)
PLAIN = st.recursive(
    SCALARS | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(
    st.fixed_dictionaries(
        {"name": st.just("x"), "model": PLAIN},
        optional={"data": PLAIN, "training": PLAIN, "seed": PLAIN},
    )
    | PLAIN
)
def test_any_data_decode_to_a_config_or_sentences(data):
    try:
        config = decode(TextRunConfig, data, CHOICES)
    except ConfigError as error:
        assert error.problems
        assert all(isinstance(problem, str) and problem for problem in error.problems)
    else:
        assert isinstance(config, TextRunConfig)


GOOD = {
    "name": "x",
    "model": {"width": 16, "blocks": [{"mixer": {"kind": "m2rnn", "heads": 2}, "mlp": {"hidden": 20}}]},
    "data": {"source": "shakespeare"},
    "training": {"steps": 3},
}


def paths(data, at=()):
    """The path of every value in plain data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(place for key, value in items for place in paths(value, (*at, key)))]


def replaced(data, at, value):
    if not at:
        return value
    if isinstance(data, dict):
        return {k: replaced(v, at[1:], value) if k == at[0] else v for k, v in data.items()}
    return [replaced(v, at[1:], value) if i == at[0] else v for i, v in enumerate(data)]


@settings(max_examples=300, deadline=None)
@given(at=st.sampled_from(paths(GOOD)), value=PLAIN)
def test_a_good_config_with_one_value_replaced_gives_a_config_or_sentences(at, value):
    try:
        decode(TextRunConfig, replaced(GOOD, at, value), CHOICES)
    except ConfigError as error:
        assert all(isinstance(problem, str) and problem for problem in error.problems)


def test_any_bytes_as_a_config_file_give_one_line(tmp_path):
    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=40))
    def check(content):
        path = Path(tmp_path) / "c.yaml"
        path.write_bytes(content)
        status, shown = quietly(["train", str(path), "--dry-run"])
        assert status == 1
        assert "Traceback" not in shown

    check()
