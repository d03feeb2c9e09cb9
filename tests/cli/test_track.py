"""`matrixstate train` on a task, and `matrixstate track`."""

import json

import pytest

from matrixstate.cli.__main__ import main

TASK = """
data: parity
model: {width: 8, tied: false, blocks: [{mixer: {kind: gru, heads: 1}, mlp: {hidden: 8}}]}
training: {steps: 3, length: 8, batch: 4, max_batch: 8, warmup: 1}
evaluate_length: 32
evaluate_sequences: 4
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TASK)
    return path


def test_training_on_a_task_ends_with_how_far_it_tracks(config, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(["train", str(config), "--out", str(run), "--set", "training.steps=4", "--seed", "2", "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["run"] == str(run)
    assert [row["length"] for row in trained["lengths"]] == [8, 16, 32]
    assert json.loads((run / "status.json").read_text())["step"] == 4
    assert main(["track", str(run), "--length", "32", "--sequences", "4", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["lengths"] == trained["lengths"]  # the same sequences, computed again


def test_tracking_is_shown_and_drawn(config, tmp_path, capsys):
    run, figure = tmp_path / "run", tmp_path / "figure.svg"
    assert main(["train", str(config), "--out", str(run)]) == 0
    assert f"matrixstate track {run} --length 256" in capsys.readouterr().out
    assert main(["track", str(run), "--length", "40", "--sequences", "2", "--figure", str(figure)]) == 0
    shown = capsys.readouterr().out
    assert "without a mistake to length" in shown
    assert "longest in training" in figure.read_text()


@pytest.mark.parametrize("option", [["--dry-run"], ["--text", "my.txt"]])
def test_a_task_has_neither_text_nor_plan(config, option, capsys):
    assert main(["train", str(config), *option]) == 1
    assert capsys.readouterr().err.startswith(f"matrixstate: error: {option[0]}: expected none for a task")


def test_mistakes_of_a_task_come_at_once(config, capsys):
    assert main(["train", str(config), "--set", "training.start=9", "--set", "data=parityy"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "matrixstate: error: data: unknown name 'parityy'; did you mean 'parity'?",
        "matrixstate: error: training.start: expected at most length = 8, got 9",
    ]
