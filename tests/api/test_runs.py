"""Runs and comparisons from Python give the same results as the command line, and show in a notebook."""

import json
import signal
import sys
import types

import pytest
from small import small_config, text_file
from tiny import set_data, text_data

import matrixstate
from matrixstate.cli.__main__ import main
from matrixstate.configs import encode
from matrixstate.errors import CheckpointError, ConfigError
from matrixstate.training import CHOICES


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    return matrixstate.train(encode(small_config(directory), CHOICES), out=directory / "run", progress=False)


def command_output(capsys, *arguments):
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_generates_and_evaluates_as_the_command_line_does(run, capsys):
    texts = run.generate(["9 bottles", "8"], tokens=20, seed=3)
    args = ("--prompt", "9 bottles", "--prompt", "8", "--tokens", 20, "--seed", 3)
    theirs = command_output(capsys, "generate", run.directory, *args)["texts"]
    assert texts == [one["prompt"] + one["text"] for one in theirs]
    assert matrixstate.load(run.directory).generate("9 bottles", tokens=20, seed=3) == texts[0]
    assert run.generate("9", tokens=0) == "9"
    assert run.evaluate().nats_per_token == command_output(capsys, "evaluate", run.directory)["nats_per_token"]
    assert run.evaluate("1 bottle", window=4).window == 4


def test_a_run_has_its_numbers_and_metrics(run):
    numbers = run.numbers
    assert (numbers["status"], numbers["step"]) == ("done", 12)
    assert numbers["nats_per_token"] == run.evaluate().nats_per_token
    assert [row["step"] for row in run.metrics] == list(range(1, 13))
    assert {"loss", "validation_loss", "learning_rate"} <= run.metrics[3].keys()
    assert f"{run.directory}: status done, step 12" in repr(run)


def test_results_show_in_a_notebook(run):
    html = run._repr_html_()
    assert "<td>12</td>" in html
    assert 'src="data:image/png;base64,' in html
    assert run.figure()._repr_png_().startswith(b"\x89PNG")


def test_tables_are_data_frames_where_pandas_is(run, monkeypatch):
    pandas = types.ModuleType("pandas")
    pandas.DataFrame = lambda rows: ("frame", rows)
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    kind, rows = run.metrics
    assert (kind, len(rows)) == ("frame", 12)


def test_a_run_is_trained_from_a_file_an_object_or_a_mapping(tmp_path):
    config = small_config(tmp_path, steps=2)
    (tmp_path / "named.yaml").write_text(json.dumps({**encode(config, CHOICES), "name": "from-file"}))
    other = tmp_path / "other.txt"
    other.write_text("another text, not of beer " * 40)
    options = {"progress": False, "set": ["training.steps=1"]}
    assert matrixstate.train(config, out=tmp_path / "1", **options).config.training.steps == 1
    found = matrixstate.train(str(tmp_path / "named.yaml"), out=tmp_path / "2", text=str(other), **options)
    assert (found.config.name, found.config.data.files) == ("from-file", (str(other),))


def test_a_run_on_a_task_is_trained_loaded_and_measured(tmp_path, run, capsys):
    mixer = {"kind": "gru", "conv": 0}
    config = {
        "data": "parity",
        "model": {"width": 16, "blocks": [{"mixer": mixer, "mlp": None}], "tied": False},
        "training": {"steps": 5, "length": 8, "batch": 4, "max_batch": 16},
        "evaluate_length": 16,
    }
    trained = matrixstate.train(config, out=tmp_path / "run", progress=False)
    assert (trained.tokenizer, trained.numbers["step"]) == (None, 5)
    assert {"accuracy", "length", "loss"} <= trained.metrics[0].keys()
    found = matrixstate.load(tmp_path / "run").track(32, sequences=4)
    theirs = command_output(capsys, "track", tmp_path / "run", "--length", 32, "--sequences", 4)
    assert found.token_accuracy(32) == theirs["lengths"][-1]["token_accuracy"]
    assert trained.figure()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r"generate: expected a run on a text, got one on a task: .*; use track\(\)"):
        trained.generate("0")
    with pytest.raises(ConfigError, match="evaluate: expected a run on a text"):
        trained.evaluate()
    with pytest.raises(ConfigError, match="track: expected a run on a task, got one on a text"):
        run.track()


def test_a_stopped_training_is_resumed(tmp_path, monkeypatch):
    class Stopping:
        def __enter__(self):
            return self

        def __exit__(self, *_): ...

        def step(self, step, *_, **observed):
            if step == 3:
                signal.raise_signal(signal.SIGINT)

        def evaluated(self, *_): ...

        measured = warned = evaluated

    config = small_config(tmp_path)
    whole = matrixstate.train(config, out=tmp_path / "whole", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr("matrixstate.api.runs.TrainingProgress", lambda *_: Stopping())
        with pytest.raises(KeyboardInterrupt, match=r"stopped after step 3; resume with: train\('.*cut'\)"):
            matrixstate.train(config, out=tmp_path / "cut")
    assert matrixstate.load(tmp_path / "cut").numbers["status"] == "stopped"
    resumed = matrixstate.train(tmp_path / "cut", progress=False)
    times = ("seconds", "cpu_seconds")
    assert {k: v for k, v in resumed.numbers.items() if k not in times} == {
        k: v for k, v in whole.numbers.items() if k not in times
    }


def test_mistakes_are_named(tmp_path, run):
    with pytest.raises(ConfigError, match="modle: unknown key; did you mean 'model'"):
        matrixstate.train({"modle": "shakespeare-mru"})
    with pytest.raises(ConfigError, match="expected no out, text or set with the run"):
        matrixstate.train(run.directory, set=["training.steps=20"])
    with pytest.raises(ConfigError, match="expected a new or empty directory"):
        matrixstate.train(small_config(tmp_path), out=run.directory)
    with pytest.raises(CheckpointError, match="expected a run directory"):
        matrixstate.load(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="jobs: expected at least 1, got 0"):
        matrixstate.compare({"models": []}, jobs=0)


def test_a_comparison_returns_tables_sentences_and_figures(tmp_path):
    data = text_data(tmp_path)
    found = matrixstate.compare(data, out=tmp_path / "out", set=["training.steps=4"], seeds=1, progress=False)
    assert [(row["entry"], row["seed"], row["steps"]) for row in found.results] == [("conv", 0, 4), ("gru", 0, 4)]
    assert {row["entry"] for row in found.summary} == {"a <convolution>", "gru"}
    assert {"entry", "seed", "curve", "x", "y"} <= found.curves[0].keys()
    assert "has the lowest mean" in found.findings[0]
    assert found.report.is_file()
    assert found.figures["values"]._repr_png_().startswith(b"\x89PNG")
    html = found._repr_html_()
    assert "a &lt;convolution&gt;" in html
    assert "data:image/png" in html
    more = matrixstate.compare(tmp_path / "out", seeds=2, progress=False)
    assert len(more.results) == 4


@pytest.mark.slow
def test_a_comparison_of_several_parts(tmp_path):
    found = matrixstate.compare(set_data(tmp_path, seeds=1), out=tmp_path / "out", progress=False)
    assert (
        {row["part"] for row in found.results} == {row["part"] for row in found.summary} == {"parity", "cycle", "text"}
    )
    assert {"overview", "text/values"} <= found.figures.keys()
    assert len(found.findings) == 3
    assert found.curves[0]["part"] == "parity"


def test_progress_shows_in_a_notebook(monkeypatch, tmp_path, capsys):
    """In IPython's kernel, the progress bar is a line of HTML that is updated in place."""
    shown = []
    display = types.ModuleType("IPython.display")
    display.HTML = str
    display.display = lambda html, display_id: types.SimpleNamespace(update=shown.append)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    matrixstate.train(small_config(tmp_path, steps=2), out=tmp_path / "run")
    assert '<progress value="2" max="2"></progress> <code>step 2 loss' in shown[-2]
    assert shown[-1] == ""
    assert "step 2" not in capsys.readouterr().err


def test_a_text_may_be_given_as_a_path(tmp_path):
    config = {"model": {"width": 8, "blocks": [{"mixer": "conv"}]}, "training": {"steps": 1, "sequence": 8}}
    found = matrixstate.train(config, text=text_file(tmp_path), out=tmp_path / "run", progress=False)
    assert found.config.name == "run"
