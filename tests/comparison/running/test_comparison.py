"""Running a comparison: equal trials, nothing repeated, divergence as a result, the same in processes."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from tiny import (
    TIMES,
    Recorder,
    block,
    compared,
    compared_with_trials,
    task_data,
    text_data,
    timeless,
)

from matrixstate.comparison import make_suite
from matrixstate.comparison.running import jobs as jobs_module
from matrixstate.comparison.running.comparison import Comparison
from matrixstate.comparison.running.jobs import smooth, spikes, thin
from matrixstate.comparison.running.pool import Interrupted
from matrixstate.comparison.running.tables import (
    CURVES,
    MATCHING,
    RESULTS,
    TRIALS,
    Point,
    Result,
    Size,
    Trial,
    read_rows,
)
from matrixstate.comparison.suites.plan import make_plan
from matrixstate.errors import CheckpointError, ConfigError, Diverged


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished comparison of texts with trials."""
    return compared_with_trials(tmp_path_factory.mktemp("done"))


def test_every_entry_gets_equal_trials_and_seeds(done):
    comparison, recorder = done
    assert recorder.begun == [("trials", 6, 0, 24), ("training", 4, 0, 24)]
    assert recorder.steps[-1] == 24
    trials = read_rows(comparison.directory / TRIALS, Trial)
    assert {(t.entry, t.learning_rate, t.steps, t.seed) for t in trials} == {
        (entry, rate, 4, 1000) for entry in ("conv", "gru") for rate in (1e-3, 1e-2, 1e-1)
    }
    rows = read_rows(comparison.directory / RESULTS, Result)
    assert [(row.entry, row.seed, row.steps, row.tokens) for row in rows] == [
        (entry, seed, 6, 192) for entry in ("conv", "gru") for seed in (0, 1)
    ]
    for entry in ("conv", "gru"):
        tried = {t.value: t for t in trials if t.entry == entry}
        best = tried[min(tried)]
        assert [t for t in trials if t.entry == entry and t.chosen] == [best]
        assert {row.learning_rate for row in rows if row.entry == entry} == {best.learning_rate}


def test_the_tables_contain_the_results_of_the_runs(done):
    comparison, _ = done
    for row in read_rows(comparison.directory / RESULTS, Result):
        run = comparison.directory / "runs" / row.entry / f"seed-{row.seed}" / "run"
        status = json.loads((run / "status.json").read_text())
        assert row.value == pytest.approx(status["bits_per_byte"], rel=1e-6)
        assert row.item_error is not None
        assert 0 < row.item_error < row.value
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert (config["seed"], config["training"]["learning_rate"]) == (row.seed, row.learning_rate)
        assert (run / "data" / "train.bin").samefile(comparison.directory / "data" / "train.bin")
    curves = read_rows(comparison.directory / CURVES, Point)
    assert {point.curve for point in curves} == {"training loss", "validation loss", "loss by position"}
    assert [p.x for p in curves if (p.entry, p.seed, p.curve) == ("gru", 1, "validation loss")] == [3, 6]
    sizes = read_rows(comparison.directory / MATCHING, Size)
    assert [(size.entry, size.budget, size.varied) for size in sizes] == [
        ("conv", "", "nothing"),
        ("gru", "", "nothing"),
    ]


def test_nothing_is_repeated(done):
    comparison, _ = done
    files = [path for path in comparison.directory.rglob("*") if path.is_file() and path.suffix != ".csv"]
    before = {path: path.stat().st_mtime_ns for path in files}
    tables = {path: path.read_bytes() for path in comparison.directory.glob("*.csv")}
    recorder, again = Recorder(), Comparison.open(comparison.directory)
    assert again == comparison
    again.run(1, recorder)
    assert (recorder.begun, recorder.names) == ([("trials", 6, 6, 0), ("training", 4, 4, 0)], [])
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert {path: path.read_bytes() for path in comparison.directory.glob("*.csv")} == tables


def test_a_stopped_comparison_resumes_to_the_same_numbers(done, tmp_path, monkeypatch):
    comparison, _ = done
    out = tmp_path / "out"
    begun = Comparison.create(out, make_plan(comparison.suite))

    class Stopper(Recorder):
        """Asks the process to stop in the middle of the eighth job, at its fifth step."""

        def update(self, steps, running):
            super().update(steps, running)
            if len(self.names) == 7 and steps == 6 + 5:
                os.kill(os.getpid(), signal.SIGINT)

    stopper, recorder = Stopper(), Recorder()
    with pytest.raises(Interrupted) as stop:
        begun.run(1, stopper)
    assert stop.value.signal == signal.SIGINT
    assert not (out / RESULTS).exists()
    Comparison.open(out).run(1, recorder)
    assert recorder.begun == [("trials", 6, 6, 0), ("training", 4, 1, 13)]  # one step of the stopped job is left
    assert not set(stopper.names) & set(recorder.names)
    assert timeless(out) == timeless(comparison.directory)


class Terminator(Recorder):
    """Asks the process to end in the middle of the second job."""

    def update(self, steps, running):
        super().update(steps, running)
        if len(self.names) == 1 and len(running) == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("kind", ["text", "task"])
def test_a_stop_reports_its_signal(kind, tmp_path):
    data = task_data() if kind == "task" else text_data(tmp_path)
    begun = Comparison.create(tmp_path / "out", make_plan(make_suite(data)))
    with pytest.raises(Interrupted) as stop:
        begun.run(1, Terminator())
    assert stop.value.signal == signal.SIGTERM


def test_a_stopped_task_resumes_to_the_same_numbers(tmp_path):
    plan = make_plan(make_suite(task_data()))
    whole, stopped = Comparison.create(tmp_path / "whole", plan), Comparison.create(tmp_path / "stopped", plan)
    whole.run(1, Recorder())
    with pytest.raises(Interrupted):
        stopped.run(1, Terminator())
    done = stopped.finals()[1].progress()
    assert 0 < done["step"] < 4
    recorder = Recorder()
    stopped.run(1, recorder)
    assert recorder.begun[-1] == ("training", 2, 1, 4 - done["step"])  # what was done is not done again
    assert timeless(tmp_path / "stopped") == timeless(tmp_path / "whole")
    row = read_rows(tmp_path / "stopped" / RESULTS, Result)[1]
    assert row.cpu_seconds is not None
    assert row.cpu_seconds > done["cpu_seconds"]


def test_more_seeds_keep_the_old_ones(tmp_path):
    comparison, _ = compared(tmp_path / "out", text_data(tmp_path))
    before, recorder = timeless(comparison.directory), Recorder()
    wider = comparison.extend(dataclasses.replace(comparison.suite, seeds=3))
    wider.run(1, recorder)
    assert recorder.names == ["conv/seed-2", "gru/seed-2"]
    after = timeless(comparison.directory)
    assert [row for row in after if row["seed"] < 2] == before
    assert Comparison.open(comparison.directory).suite.seeds == 3


def test_another_suite_in_the_same_directory_is_refused(done, tmp_path):
    comparison, _ = done
    data = text_data(tmp_path)
    data["training"]["steps"] = 7
    with pytest.raises(ConfigError) as caught:
        comparison.extend(make_suite(data))
    assert any("models.0.training.steps: 6 there, 7 here" in problem for problem in caught.value.problems)
    with pytest.raises(ConfigError, match="new or empty"):
        Comparison.create(tmp_path, make_plan(comparison.suite))


def test_damage_is_named(done, tmp_path):
    with pytest.raises(CheckpointError, match="expected a comparison in"):
        Comparison.open(tmp_path)
    (tmp_path / "suite.yaml").write_text("width: [")
    with pytest.raises(CheckpointError, match="damaged"):
        Comparison.open(tmp_path)
    (tmp_path / RESULTS).write_text("entry,seed\nx,y\n")
    with pytest.raises(CheckpointError, match=r"results.csv is damaged"):
        read_rows(tmp_path / RESULTS, Result)


def diverge():
    raise Diverged("training: step 3: expected a finite loss and gradient, got loss nan")


def test_a_training_that_diverges_is_a_result(tmp_path, monkeypatch):
    train = jobs_module.train

    def sometimes(run, *rest, **options):
        outcome = train(run, *rest, **options)
        if run.config.name == "gru" and run.config.seed == 1:
            diverge()
        return outcome

    monkeypatch.setattr("matrixstate.comparison.running.jobs.train", sometimes)
    comparison, recorder = compared(tmp_path / "out", text_data(tmp_path))
    rows = {(row.entry, row.seed): row for row in read_rows(comparison.directory / RESULTS, Result)}
    assert len(recorder.names) == len(rows) == 4
    assert {key for key, row in rows.items() if row.status == "failed"} == {("gru", 1)}
    assert rows["gru", 1].reason.endswith("got loss nan")
    assert rows["gru", 1].value is None
    assert rows["gru", 1].steps == 6


@pytest.mark.parametrize("error", [ConfigError("cannot be"), MemoryError(), RuntimeError("no\nroom")], ids=repr)
def test_a_training_that_fails_does_not_stop_the_others(error, tmp_path, monkeypatch):
    train = jobs_module.train

    def sometimes(run, *rest, **options):
        if run.config.seed == 0:
            raise error
        return train(run, *rest, **options)

    monkeypatch.setattr("matrixstate.comparison.running.jobs.train", sometimes)
    comparison, _ = compared(tmp_path / "out", task_data())
    rows = read_rows(comparison.directory / RESULTS, Result)
    reason = " ".join(str(error).split()) or "MemoryError"
    assert [(row.seed, row.status, row.reason) for row in rows] == [(0, "failed", reason), (1, "done", "")]


def test_an_entry_whose_trials_all_diverge_is_not_trained(tmp_path, monkeypatch):
    train = jobs_module.train

    def never(run, *rest, **options):
        outcome = train(run, *rest, **options)
        if run.config.name == "gru":
            diverge()
        return outcome

    monkeypatch.setattr("matrixstate.comparison.running.jobs.train", never)
    comparison, _ = compared(tmp_path / "out", text_data(tmp_path, learning_rates=[1e-3, 1e-2]))
    rows = [row for row in read_rows(comparison.directory / RESULTS, Result) if row.entry == "gru"]
    assert [(row.status, row.reason) for row in rows] == [("failed", "every learning rate that was tried failed")] * 2
    assert not (comparison.directory / "runs" / "gru" / "seed-0").exists()


def test_tasks_are_compared_by_accuracy(tmp_path):
    comparison, _ = compared(tmp_path / "out", task_data(solved=0.1))
    rows = read_rows(comparison.directory / RESULTS, Result)
    for row in rows:
        assert (row.kind, row.better, row.metric) == ("task", "higher", "accuracy to length 32")
        assert row.value is not None
        assert row.solved == (row.value >= 0.1)
        assert row.items == 4
        assert row.item_error == pytest.approx((row.value * (1 - row.value) / 4) ** 0.5, abs=1e-6)
    accuracy = [p for p in read_rows(comparison.directory / CURVES, Point) if p.curve == "accuracy" and p.seed == 0]
    assert accuracy[-1].x == 32
    # an unfinished training on a task starts again
    (comparison.directory / "runs" / "gru" / "seed-0" / "result.json").unlink()
    comparison.run(1, Recorder())
    assert timeless(comparison.directory) == [
        {k: v for k, v in dataclasses.asdict(row).items() if k not in TIMES} for row in rows
    ]


def test_the_accuracy_compared_may_end_before_the_curve(tmp_path):
    comparison, _ = compared(tmp_path / "out", task_data(value_length=8))
    for row in read_rows(comparison.directory / RESULTS, Result):
        assert row.metric == "accuracy to length 8"
        assert row.value == row.value_at_train_length != row.value_at_longest


def test_processes_give_the_same_numbers(tmp_path):
    data = text_data(tmp_path, models=text_data(tmp_path)["models"][:1])
    here, _ = compared(tmp_path / "here", data)
    there, recorder = compared(tmp_path / "there", data, workers=2)
    assert timeless(here.directory) == timeless(there.directory)
    assert sorted(recorder.names) == ["conv/seed-0", "conv/seed-1"]


@pytest.mark.slow
def test_ctrl_c_leaves_processes_that_can_be_resumed(tmp_path):
    data = text_data(tmp_path)
    data["models"] = [{"name": "conv", "model": {"width": 16, "blocks": [block()]}}]
    data["training"]["steps"] = 1_000_000
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "matrixstate.cli", "compare", "suite.yaml", "--out", "out", "--jobs", "2"]
    child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    logs = [tmp_path / "out" / "runs" / "conv" / f"seed-{seed}" / "run" / "metrics.jsonl" for seed in (0, 1)]
    until = time.monotonic() + 60
    while time.monotonic() < until and not all(log.exists() and log.stat().st_size for log in logs):
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "stopped; nothing is lost. Resume with: matrixstate compare out" in errors
    assert "Traceback" not in errors
    begun = Comparison.open(tmp_path / "out")
    for job in begun.finals():
        assert job.result() is None
        lines = (job.directory / "run" / "metrics.jsonl").read_text().splitlines()
        steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
        assert steps == list(range(1, len(steps) + 1))
        assert (job.directory / "run" / "checkpoints" / f"step-{len(steps):08d}").is_dir()
        assert json.loads((job.directory / "run" / "status.json").read_text())["status"] == "stopped"


def test_curves_are_smoothed_thinned_and_searched_for_spikes():
    flat = [2.0] * 30
    assert spikes(flat) == 0
    assert spikes([*flat, 2.4, *flat]) == 0
    assert spikes([*flat, 2.6, 2.7, *flat, 9.0, *flat]) == 2
    assert spikes([9.0, *flat]) == 0
    points = [(i, float(i)) for i in range(1001)]
    assert thin(points)[-1] == (1000, 1000.0)
    assert len(thin(points)) <= 200
    assert smooth([(0, 1.0), (1, 3.0)]) == [(0, 1.0), (1, 3.0)]
    assert all(y == pytest.approx(2.0) for _, y in smooth([(i, 2.0) for i in range(300)]))
