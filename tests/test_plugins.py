"""Plug-ins that a caller names work in every command, and nothing else is imported."""

import importlib.metadata
import json
import re
from pathlib import Path

import pytest
from small import text_file
from tiny import text_data

import matrixstate
from matrixstate.cli.__main__ import main
from matrixstate.comparison import METRICS
from matrixstate.data.tasks import TASKS
from matrixstate.data.tokenizers import TOKENIZERS
from matrixstate.errors import CheckpointError, ConfigError
from matrixstate.mixers import MIXERS
from matrixstate.plugins import load_plugins, loaded_plugins, unload_plugins

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "own_mixer.py"
TINY = ["training.steps=3", "training.evaluate_every=3", "model.blocks.0.repeat=1"]
EMPTY = """
from dataclasses import dataclass
from matrixstate.layers import MixerConfig

@dataclass(frozen=True)
class Nothing(MixerConfig):
    size: int = {size}

    def make(self, width):
        raise NotImplementedError

MIXERS = {{"nothing": Nothing}}
"""


@pytest.fixture(autouse=True)
def _none_loaded():
    yield
    unload_plugins()
    assert "diagonal_rnn" not in MIXERS


def documented(table):
    """The plug-in with that table in docs/plugins.md."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/plugins.md").read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if f"{table} = {{" in block]
    return block


def options(assignments):
    return [part for assignment in assignments for part in ("--set", assignment)]


def test_the_example_works_in_every_command(tmp_path, capsys):
    config, run, text = EXAMPLE.with_suffix(".yaml"), tmp_path / "run", text_file(tmp_path)

    def command(*arguments):
        capsys.readouterr()
        assert main([*map(str, arguments), "--plugin", str(EXAMPLE), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert command("list")["mixers"]["diagonal_rnn"]["state_bytes_per_sequence"] == 256
    assert command("check", config)["passes"]
    assert command("train", config, "--text", text, "--out", run, *options(TINY))["step"] == 3
    assert len(command("generate", run, "--tokens", 5)["texts"]) == 1
    assert command("evaluate", run)["nats_per_token"] > 0
    assert command("check", run, "--no-compile")["passes"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_examples_comparison_runs_in_workers_too(jobs, tmp_path, capsys):
    suite, out = EXAMPLE.with_name("own_mixer_compare.yaml"), tmp_path / "out"
    tiny = options(["training.steps=4", "training.length=8", "evaluate_length=16"])
    command = ["compare", str(suite), "--out", str(out), "--seeds", "1", "--jobs", str(jobs), *tiny, "--json"]
    assert main([*command, f"--plugin={EXAMPLE}"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert {model["entry"]: model["failed"] for model in models} == {"gru": 0, "mru": 0, "diagonal-rnn": 0}
    unload_plugins()
    with pytest.raises(CheckpointError, match=r"unknown name 'diagonal_rnn'.*not loaded: --plugin own_mixer.py"):
        matrixstate.compare(out)


def test_a_run_says_which_plug_in_it_needs_and_imports_none(tmp_path):
    out = tmp_path / "run"
    config = EXAMPLE.with_suffix(".yaml")
    trained = matrixstate.train(config, text=text_file(tmp_path), out=out, set=TINY, plugins=[EXAMPLE], progress=False)
    text = trained.generate("9 bottles", tokens=5)
    (recorded,) = json.loads((out / "environment.json").read_text())["plugins"]
    assert recorded["name"] == "own_mixer.py"
    assert recorded["mixers"] == ["diagonal_rnn"]
    assert len(recorded["sha256"]) == 64
    unload_plugins()
    with pytest.raises(CheckpointError, match=r"unknown name 'diagonal_rnn'.*is not loaded: --plugin own_mixer.py"):
        matrixstate.load(out)
    assert loaded_plugins() == ()
    assert matrixstate.load(out, plugins=[EXAMPLE]).generate("9 bottles", tokens=5) == text


def test_an_unknown_name_hints_at_plug_ins():
    with pytest.raises(ConfigError, match=r"unknown name 'diagonal_rnn'.*need --plugin FILE"):
        matrixstate.train(EXAMPLE.with_suffix(".yaml"))


def test_a_task_from_a_plug_in(tmp_path, capsys):
    (tmp_path / "majority.py").write_text(documented("TASKS"))
    load_plugins([tmp_path / "majority.py"])
    tokens, targets = TASKS["majority"]().at(0, 0, 2, 50)
    assert targets[0].tolist() == [int(2 * tokens[0, : i + 1].sum() > i + 1) for i in range(50)]
    suite = {
        "data": "majority",
        "evaluate_length": 16,
        "training": {"steps": 2, "length": 8},
        "models": [{"name": "gru", "model": {"width": 8, "blocks": [{"mixer": "gru"}]}}],
        "seeds": 1,
    }
    found = matrixstate.compare(suite, out=tmp_path / "out", progress=False)
    assert found.results[0]["status"] == "done"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_metric_from_a_plug_in(jobs, tmp_path):
    (tmp_path / "repeated.py").write_text(documented("METRICS"))
    suite = text_data(tmp_path, metric="repeated", seeds=1)
    with pytest.raises(ConfigError, match=r"metric: unknown name 'repeated'; names of plug-ins need --plugin FILE"):
        matrixstate.compare(suite, out=tmp_path / "out", progress=False)
    plugins = [tmp_path / "repeated.py"]
    found = matrixstate.compare(suite, out=tmp_path / "out", progress=False, jobs=jobs, plugins=plugins)
    for row in found.results:
        assert (row["metric"], row["better"]) == ("nats per token of a repeated text", "lower")
        job = tmp_path / "out" / "runs" / row["entry"] / "seed-0"
        run = matrixstate.load(job / "run", plugins=plugins)
        value = METRICS["repeated"]().measure(run.model, run.run)
        assert json.loads((job / "result.json").read_text())["value"] == value
        assert row["value"] == pytest.approx(value)
        assert row["item_error"] is None
        assert row["nats_per_token"] == pytest.approx(run.numbers["nats_per_token"])
    assert "nats per token of a repeated text" in (tmp_path / "out" / "report.html").read_text()


def test_a_tokenizer_from_a_plug_in(tmp_path):
    (tmp_path / "words.py").write_text(documented("TOKENIZERS"))
    config = {
        "model": {"width": 8, "blocks": [{"mixer": "conv"}]},
        "data": {"tokenizer": "words"},
        "training": {"steps": 1, "sequence": 8, "batch": 2},
    }
    out, text = tmp_path / "run", text_file(tmp_path)
    plugins = [tmp_path / "words.py"]
    trained = matrixstate.train(config, text=text, out=out, plugins=plugins, progress=False)
    assert trained.tokenizer.encode("bottles of  beer") != []
    assert trained.tokenizer.decode(trained.tokenizer.encode("bottles of  beer")) == "bottles of  beer"
    assert TOKENIZERS["words"] is type(trained.tokenizer)
    assert trained.generate("bottles of", tokens=3).startswith("bottles of")
    unload_plugins()
    with pytest.raises(CheckpointError, match="expected one of byte, character, bpe, got 'words'.*--plugin words.py"):
        matrixstate.load(out)


def test_a_changed_file_is_loaded_again(tmp_path):
    path = tmp_path / "empty.py"
    for size in (1, 1, 2):
        path.write_text(EMPTY.format(size=size))
        load_plugins([path])
        assert MIXERS["nothing"]().size == size
        assert len(loaded_plugins()) == 1
    before = MIXERS["nothing"]
    path.write_text("MIXERS = {'nothing': 3}")
    with pytest.raises(ConfigError, match=r"empty.py: MIXERS: expected a subclass of MixerConfig for 'nothing', got 3"):
        load_plugins([path])
    assert MIXERS.get("nothing") in (None, before)


def test_installed_plug_ins_are_loaded_by_their_names_only(monkeypatch):
    loaded = []

    class Point:
        def __init__(self, name, found):
            self.name, self.found = name, found

        def load(self):
            loaded.append(self.name)
            return self.found

    load_plugins([EXAMPLE])
    cls = MIXERS["diagonal_rnn"]
    unload_plugins()
    points = [Point("mine", cls), Point("other", cls)]

    def entry_points(*, group, name=None):
        return [point for point in points if group == "matrixstate.mixers" and name in (None, point.name)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    load_plugins(["mine"])
    assert MIXERS["mine"] is cls
    assert loaded == ["mine"]
    with pytest.raises(ConfigError, match=r"plug-in nothing: expected a file that ends in .py or .* \(mine, other\)"):
        load_plugins(["nothing"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "mine.py: cannot be read: No such file"),
        ("import nothing_of_this_name", "mine.py: cannot be imported: ModuleNotFoundError"),
        ("x = 1", "mine.py: expected one of the tables MIXERS, TASKS, TOKENIZERS, METRICS, got none"),
        ("MIXERS = ['mine']", "mine.py: MIXERS: expected a dictionary of names, got"),
        ("TASKS = {'mine': int}", "mine.py: TASKS: expected a subclass of TaskConfig for 'mine', got <class 'int'>"),
        (
            EMPTY.format(size=1).replace('"nothing"', '"mru"'),
            "mine.py: MIXERS: expected a name that is not taken, got 'mru'",
        ),
    ],
)
def test_an_invalid_plug_in_is_refused(content, message, tmp_path, capsys):
    path = tmp_path / "mine.py"
    if content is not None:
        path.write_text(content)
    mixers, tasks = dict(MIXERS), dict(TASKS)
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_plugins([path])
    assert (MIXERS, TASKS, loaded_plugins()) == (mixers, tasks, ())
    assert main(["list", "--plugin", str(path)]) == 1
    assert message in capsys.readouterr().err
