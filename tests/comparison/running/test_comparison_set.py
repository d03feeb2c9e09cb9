"""Comparisons of several parts: each at its own budget, all by the same workers, resumed where they stopped."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tiny import TIMES, Recorder, compared, compared_set, set_data, timeless

from matrixstate.comparison.running import pool
from matrixstate.comparison.running.comparison import Comparison
from matrixstate.comparison.running.comparison_set import ComparisonSet, open_any, prepare
from matrixstate.comparison.running.pool import Interrupted
from matrixstate.comparison.running.tables import RESULTS, PartResult, Result, by_part, read_rows
from matrixstate.comparison.suites.files import as_data
from matrixstate.comparison.suites.plan import make_set_plan
from matrixstate.comparison.suites.set import make_set
from matrixstate.errors import CheckpointError, ConfigError


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished comparison of two tasks and a text."""
    place = tmp_path_factory.mktemp("set")
    return compared_set(place / "out", set_data(place))


def test_all_trials_come_first_and_then_seed_by_seed(done):
    _, recorder = done
    assert recorder.begun == [("trials", 4, 0, 24), ("training", 12, 0, 76)]
    trials = [f"cycle/{entry}/trial-{rate}" for entry in ("conv", "gru") for rate in ("0.001", "0.01")]
    parts = [(part, entry) for part in ("parity", "cycle", "text") for entry in ("conv", "gru")]
    assert recorder.names == [*trials, *(f"{part}/{entry}/seed-{seed}" for seed in (0, 1) for part, entry in parts)]


def test_every_part_is_a_comparison_and_one_table_holds_all(done):
    comparison, _ = done
    rows = by_part(read_rows(comparison.directory / RESULTS, PartResult))
    assert list(rows) == ["parity", "cycle", "text"]
    for name, mine in rows.items():
        part = Comparison.open(comparison.directory / "parts" / name)
        assert part == comparison.parts[name]
        own = read_rows(part.directory / RESULTS, Result)
        assert [{**vars(row), "comparison": "Two <tasks> and a text", "part": name} for row in own] == list(
            map(vars, mine)
        )
    assert {row.metric for row in rows["text"]} == {"bits per byte"}
    assert {row.suite for row in rows["parity"]} == {"Parity & co"}
    assert not (comparison.directory / "parts" / "parity" / "data").exists()


def test_a_part_has_the_results_of_the_same_suite_alone(done, tmp_path):
    comparison, _ = done
    alone, _ = compared(tmp_path / "alone", as_data(comparison.suite.parts["cycle"]))
    assert timeless(alone.directory) == timeless(comparison.directory / "parts" / "cycle")


def test_every_part_meets_its_own_budget(tmp_path):
    data = set_data(tmp_path, match={"by": "parameters", "tolerance": 0.1})
    data["parts"]["text"]["match"] = {"by": "parameters", "value": 5000}
    plan = make_set_plan(make_set(data))
    found = {name: [one.parameters for one in part.sizes] for name, part in plan.parts.items()}
    for name, (conv, gru) in found.items():
        assert abs(gru - conv) <= 0.2 * conv, name
    assert found["parity"][0] < found["cycle"][0] < 4500 < found["text"][0]
    data["match"]["tolerance"] = data["parts"]["text"]["match"]["tolerance"] = 1e-6
    data["parts"]["cycle"]["match"] = None
    with pytest.raises(ConfigError) as caught:
        make_set_plan(make_set(data))
    heads = [problem.partition(", the nearest")[0] for problem in caught.value.problems]
    assert len(heads) >= 2
    assert {head.split(".models")[0].split(":")[0] for head in heads} == {"parts.parity", "parts.text"}
    assert "models: gru: expected parameters within 0.0% of" in heads[0]


def test_nothing_is_repeated(done):
    comparison, _ = done
    before = {path: path.stat().st_mtime_ns for path in comparison.directory.rglob("*.json")}
    tables = {path: path.read_bytes() for path in comparison.directory.rglob("*.csv")}
    recorder, again = Recorder(), open_any(comparison.directory)
    assert again == comparison
    again.run(1, recorder)
    assert (recorder.begun, recorder.names) == ([("trials", 4, 4, 0), ("training", 12, 12, 0)], [])
    assert {path: path.stat().st_mtime_ns for path in comparison.directory.rglob("*.json")} == before
    assert {path: path.read_bytes() for path in comparison.directory.rglob("*.csv")} == tables


def test_a_stopped_comparison_resumes_to_the_same_numbers(done, tmp_path):
    comparison, _ = done
    out = tmp_path / "out"

    class Stopper(Recorder):
        """Asks the process to stop inside the first training on the text."""

        def update(self, steps, running):
            super().update(steps, running)
            if list(running) == ["text/conv/seed-0"] and len(self.steps) > 2:
                os.kill(os.getpid(), signal.SIGINT)

    stopper, recorder = Stopper(), Recorder()
    with pytest.raises(Interrupted) as stop:
        prepare(out, comparison.suite).run(1, stopper)
    assert stop.value.signal == signal.SIGINT
    assert stopper.names[-1] == "cycle/gru/seed-0"
    assert not list(out.rglob("*.csv"))
    prepare(out, comparison.suite).run(1, recorder)
    assert recorder.begun[0] == ("trials", 4, 4, 0)
    assert recorder.begun[1][:3] == ("training", 12, 4)
    assert recorder.begun[1][3] < 7 + 6 + 7 + 6 * 4 + 2 * 7  # the stopped training resumes from its checkpoint
    assert not set(stopper.names) & set(recorder.names)
    assert _timeless(out) == _timeless(comparison.directory)


@pytest.mark.slow
def test_ctrl_c_leaves_parts_that_can_be_resumed(tmp_path):
    """Two processes work on two parts at once; the text is saved, the task will start again."""
    data = set_data(tmp_path, seeds=1)
    del data["models"][1], data["parts"]["cycle"], data["parts"]["text"]["training"]
    data["training"]["steps"] = 1_000_000
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    command = [sys.executable, "-m", "matrixstate.cli", "compare", "suite.yaml", "--out", "out", "--jobs", "2"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    runs = [tmp_path / "out" / "parts" / part / "runs" / "conv" / "seed-0" / "run" for part in ("parity", "text")]
    logs, until = [run / "metrics.jsonl" for run in runs], time.monotonic() + 60
    while time.monotonic() < until and not all(log.exists() and log.stat().st_size for log in logs):
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "stopped; nothing is lost. Resume with: matrixstate compare out" in errors
    assert "Traceback" not in errors
    assert [job.result() for job in ComparisonSet.open(tmp_path / "out").finals()] == [None, None]
    done = len([line for line in logs[1].read_text().splitlines() if '"loss"' in line])
    assert (runs[1] / "checkpoints" / f"step-{done:08d}").is_dir()


def _timeless(directory):
    rows = read_rows(directory / RESULTS, PartResult)
    return [{key: value for key, value in vars(row).items() if key not in TIMES} for row in rows]


def test_more_seeds_keep_the_old_ones(tmp_path):
    data = set_data(tmp_path, seeds=1)
    del data["parts"]["text"], data["parts"]["cycle"]["learning_rates"]
    for name in ("sequence", "evaluate_every", "checkpoint_every"):
        del data["training"][name]
    comparison, _ = compared_set(tmp_path / "out", data)
    before, recorder = _timeless(comparison.directory), Recorder()
    prepare(comparison.directory, comparison.suite.with_seeds(2)).run(1, recorder)
    assert recorder.names == [f"{part}/{entry}/seed-1" for part in ("parity", "cycle") for entry in ("conv", "gru")]
    assert [row for row in _timeless(comparison.directory) if row["seed"] == 0] == before
    again = ComparisonSet.open(comparison.directory)
    assert again.suite.seeds == 2
    for name, part in again.parts.items():
        assert part == Comparison.open(comparison.directory / "parts" / name)
        assert part.suite.seeds == 2


def test_seeds_added_to_only_some_parts_are_ignored(done, tmp_path):
    """As when the process ends while it gives more seeds to one part after the other."""
    comparison = prepare(tmp_path / "out", done[0].suite)
    part = Comparison.open(comparison.directory / "parts" / "parity")
    part.extend(dataclasses.replace(part.suite, seeds=5))
    again = ComparisonSet.open(comparison.directory)
    assert {one.suite.seeds for one in again.parts.values()} == {2}
    assert {one.suite.seeds for one in again.extend(again.suite.with_seeds(5)).parts.values()} == {5}
    assert {one.suite.seeds for one in ComparisonSet.open(comparison.directory).parts.values()} == {5}


def test_another_suite_in_the_same_directory_is_refused(done, tmp_path):
    comparison, _ = done
    head = f"--out: {comparison.directory} holds another suite: "
    source = comparison.suite.source

    def refused(suite):
        with pytest.raises(ConfigError) as caught:
            prepare(comparison.directory, suite)
        return [problem.removeprefix(head) for problem in caught.value.problems]

    assert refused(make_set(source, ["training.batch=3", "parts.text.training.steps=8"])) == [
        "models.0.training.batch: 2 there, 3 here",
        "models.1.training.batch: 2 there, 3 here",
        "parts.text: models.0.training.steps: 7 there, 8 here",
        "parts.text: models.1.training.steps: 7 there, 8 here",
    ]
    fewer = {name: part for name, part in source["parts"].items() if name != "cycle"}
    assert refused(make_set({**source, "parts": fewer, "title": "X"})) == [
        "title: 'Two <tasks> and a text' there, 'X' here",
        "parts: ['parity', 'cycle', 'text'] there, ['parity', 'text'] here",
    ]
    assert refused(comparison.suite.parts["parity"]) == ["one of several parts there, a suite here"]
    part = comparison.parts["parity"].directory
    with pytest.raises(ConfigError, match="holds another suite: a suite there, one of several parts here"):
        prepare(part, comparison.suite)
    with pytest.raises(ConfigError, match="new or empty"):
        ComparisonSet.create(tmp_path.parent, make_set_plan(comparison.suite))


def test_damage_is_named(done, tmp_path):
    out = tmp_path / "out"
    (out / "parts").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="expected a comparison in"):
        open_any(out)
    (out / "suite.yaml").write_text("parts: [")
    with pytest.raises(CheckpointError, match="damaged"):
        open_any(out)
    (out / "suite.yaml").write_text(yaml.safe_dump(done[0].suite.source, sort_keys=False))
    with pytest.raises(CheckpointError, match=r"expected a comparison in .*parts/parity"):
        open_any(out)
    comparison = prepare(tmp_path / "whole", done[0].suite)
    changed = make_set(comparison.suite.source, ["parts.cycle.evaluate_length=99"]).source
    (comparison.directory / "suite.yaml").write_text(yaml.safe_dump(changed, sort_keys=False))
    with pytest.raises(CheckpointError, match=r"suite.yaml does not match its parts: .* 32 there, 99 here"):
        open_any(comparison.directory)


def test_the_parts_share_the_workers(tmp_path, monkeypatch):
    handed = []
    monkeypatch.setattr(pool, "_run_in_processes", lambda jobs, workers, report: handed.append((len(jobs), workers)))
    comparison = prepare(tmp_path / "out", make_set(set_data(tmp_path), ["parts.cycle.learning_rates=[]"]))
    monkeypatch.setattr(ComparisonSet, "write_tables", lambda self: None)
    comparison.run(4, Recorder())
    assert handed == [(12, 4)]
