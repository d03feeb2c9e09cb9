"""Training on tasks: lengths grow when mastered, a seed gives the same weights, and failures leave a reason behind."""

import dataclasses
import json
import math
import os
import signal
from collections import Counter

import pytest
import torch
from listeners import At, Memory

from matrixstate.configs import decode, encode
from matrixstate.data.tasks import ParityConfig, WordProblemConfig
from matrixstate.errors import CheckpointError, ConfigError, Diverged
from matrixstate.evaluation.tracking import Tracking, track
from matrixstate.mixers import GRUConfig, MRUConfig
from matrixstate.models import BlockConfig, ModelConfig
from matrixstate.training import tasks
from matrixstate.training.optimizer import RateConfig
from matrixstate.training.stopping import Stopped
from matrixstate.training.tasks import (
    TASK_CHOICES,
    Curriculum,
    TaskRunConfig,
    TaskTrainingConfig,
    load_task_config,
    load_task_model,
    train_task,
)


def config_of(mixer=None, task=None, seed=0, **training):
    options = {"steps": 6, "length": 8, "batch": 4, "max_batch": 16, "warmup": 2, **training}
    return TaskRunConfig(
        name="tiny",
        model=ModelConfig(16, (BlockConfig(mixer or GRUConfig(conv=0), None),), tied=False),
        task=task or ParityConfig(),
        training=TaskTrainingConfig(**options),
        evaluate_length=32,
        evaluate_sequences=8,
        seed=seed,
    )


def status_of(directory):
    return json.loads((directory / "status.json").read_text())


def lines_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_the_length_grows_only_when_mastered():
    curriculum = Curriculum(TaskTrainingConfig(length=20, start=2, batch=10, max_batch=100), seed=0)
    lengths = []
    for accuracy in (0.5, 1, 1, *[1] * 30):
        lengths.append(curriculum.length(len(lengths)))
        curriculum.learned(accuracy)
    assert sorted(set(lengths)) == [2, 4, 8, 16, 20]
    assert lengths == sorted(lengths)
    assert lengths[:3] == [2, 2, 2]  # the mean over the first three is below 0.95
    for _ in range(50):
        curriculum.learned(0.0)
    assert curriculum.length(99) == 20

    slow = Curriculum(TaskTrainingConfig(length=20), seed=0)
    assert [slow.learned(0.9) for _ in range(50)][-1] == pytest.approx(0.9)
    assert slow.length(50) == 2


def test_a_mean_forgets_the_shorter_length():
    curriculum = Curriculum(TaskTrainingConfig(length=64), seed=0)
    assert curriculum.learned(1.0) == 1.0
    assert curriculum.current == 4
    assert curriculum.learned(0.5) == 0.5
    assert curriculum.current == 4


def test_short_sequences_come_in_larger_batches():
    curriculum = Curriculum(TaskTrainingConfig(length=128, batch=64, max_batch=256), seed=0)
    assert [curriculum.batch(length) for length in (2, 16, 32, 33, 64, 100, 128)] == [256, 256, 256, 248, 128, 81, 64]


def test_uniform_lengths_are_drawn_from_the_whole_range():
    config = TaskTrainingConfig(length=6, start=3, lengths="uniform")
    one, same, other = (Curriculum(config, seed) for seed in (0, 0, 1))
    lengths = [one.length(step) for step in range(400)]
    assert Counter(lengths).keys() == {3, 4, 5, 6}
    assert min(Counter(lengths).values()) > 60
    assert lengths == [same.length(step) for step in range(400)]
    assert lengths != [other.length(step) for step in range(400)]
    assert Curriculum(TaskTrainingConfig(length=6, lengths="full"), 0).length(0) == 6


def test_a_run_leaves_everything_behind(tmp_path):
    config, memory = config_of(), Memory()
    outcome = train_task(tmp_path / "run", config, [memory])
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "tracking.json", "status.json"}
    assert load_task_config(tmp_path / "run") == config
    status, lines = status_of(tmp_path / "run"), lines_of(tmp_path / "run")
    assert status["status"] == "done"
    assert status["steps"] == outcome.steps == len(lines) == 6
    assert status["tokens"] == outcome.tokens
    assert status["skipped"] == 0
    assert lines[0].keys() == {"step", "length", "loss", "accuracy", "gradient_norm"}
    assert all(math.isfinite(line["loss"]) for line in lines)
    tracking = Tracking.from_data(json.loads((tmp_path / "run" / "tracking.json").read_text()))
    assert tracking.data() == outcome.tracking.data()
    assert tracking.length == 32
    assert tracking.sequences == 8


@pytest.mark.parametrize("mixer", [GRUConfig(conv=0), MRUConfig(heads=1, state_size=16)], ids=["gru", "mru"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(mixer, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        train_task(tmp_path / name, config_of(mixer, seed=seed, lengths="uniform", start=2))
    one, same, other = (dict(load_task_model(tmp_path / n)[0].named_parameters()) for n in ("one", "same", "other"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])
    assert [line["loss"] for line in lines_of(tmp_path / "one")] == [
        line["loss"] for line in lines_of(tmp_path / "same")
    ]


def test_the_trained_model_gives_the_same_answers_when_loaded(tmp_path):
    config = config_of(MRUConfig(heads=1, state_size=16), WordProblemConfig("S3"))
    outcome = train_task(tmp_path / "run", config)
    model, loaded = load_task_model(tmp_path / "run")
    assert not model.training
    assert loaded == config
    assert model.config.vocabulary == 6
    assert track(model, config.task, (32,), sequences=8).data() == outcome.tracking.data()


def test_parity_is_learned_in_seconds(tmp_path):
    config = config_of(steps=200, length=16, batch=32, max_batch=128, learning_rate=1e-2, warmup=10)
    outcome = train_task(tmp_path / "run", config)
    assert outcome.tracking.token_accuracy(16) >= 0.99
    assert outcome.tracking.token_accuracy(32) >= 0.99
    assert outcome.solved_at is not None
    step, seconds = outcome.solved_at
    assert 0 < step <= 200
    assert 0 < seconds <= outcome.cpu_seconds
    assert status_of(tmp_path / "run")["solved_at"] == [step, seconds]
    lengths = [line["length"] for line in lines_of(tmp_path / "run")]
    assert lengths == sorted(lengths)
    assert sorted(set(lengths)) == [2, 4, 8, 16]


def spoil(monkeypatch, steps):
    """Makes the losses of some steps infinite."""
    plain, calls = tasks.cross_entropy, []

    def spoiled(*args, **options):
        calls.append(1)
        return plain(*args, **options) * (math.inf if len(calls) in steps else 1)

    monkeypatch.setattr(tasks, "cross_entropy", spoiled)


def test_steps_that_are_not_finite_are_skipped(tmp_path, monkeypatch):
    spoil(monkeypatch, {2, 5})
    outcome = train_task(tmp_path / "run", config_of(max_skipped=2))
    assert outcome.skipped == 2
    assert outcome.steps == 6
    model, _ = load_task_model(tmp_path / "run")
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert [line["step"] for line in lines_of(tmp_path / "run") if not math.isfinite(line["loss"])] == [2, 5]


def test_a_run_that_diverges_fails_with_a_reason(tmp_path, monkeypatch):
    spoil(monkeypatch, {1, 3, 4})
    message = "training: expected finite losses and gradients, got 3 steps without"
    with pytest.raises(Diverged, match=message):
        train_task(tmp_path / "run", config_of(max_skipped=2))
    assert status_of(tmp_path / "run") == {"status": "failed", "reason": message}
    with pytest.raises(CheckpointError, match="checkpoint"):
        load_task_model(tmp_path / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_says_which_signal_it_was(number, tmp_path):
    with pytest.raises(Stopped) as stop:
        train_task(tmp_path / "run", config_of(), [At(1, lambda: os.kill(os.getpid(), number))])
    assert stop.value.signal == number
    assert len(lines_of(tmp_path / "run")) == 1
    assert status_of(tmp_path / "run") == {"status": "failed", "reason": "Stopped"}


def test_a_directory_that_holds_files_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="out: expected a new or empty directory, got .*full with files in it"):
        train_task(tmp_path / "full", config_of())
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="out: cannot write .*thesis.txt"):
        train_task(tmp_path / "full" / "thesis.txt", config_of())
    (tmp_path / "empty").mkdir()
    assert train_task(tmp_path / "empty", config_of(steps=1)).steps == 1


@pytest.mark.parametrize("content", [None, "model: [", "- 1", "name: x"])
def test_a_run_that_is_none_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(CheckpointError, match="run: expected a task's run with .*config.yaml: "):
        load_task_config(tmp_path)


def test_all_mistakes_come_at_once():
    data = encode(config_of(), TASK_CHOICES)
    data["training"] |= {"steps": 0, "threshold": 2.0, "length": 1}
    with pytest.raises(ConfigError) as raised:
        decode(TaskRunConfig, data, TASK_CHOICES)
    assert list(raised.value.problems) == [
        "training.steps: expected at least 1, got 0",
        "training.start: expected at most length = 1, got 2",
        "training.threshold: expected a share above 0, got 2.0",
    ]
    with pytest.raises(ConfigError) as raised:
        TaskRunConfig(
            "x",
            dataclasses.replace(config_of().model, vocabulary=3),
            WordProblemConfig("S3"),
            evaluate_length=0,
            seed=-1,
        )
    assert list(raised.value.problems) == [
        "seed: expected 0 or more, got -1",
        "evaluate_length: expected at least 1, got 0",
        "model.vocabulary: expected at least 6, the task's, got 3",
    ]


def test_a_rate_of_its_own_holds_and_one_for_no_parameter_is_refused_before_anything_is_written(tmp_path):
    def weights(name, held):
        train_task(tmp_path / name, config_of(rates=(RateConfig(held, 0.0),)))
        return load_task_model(tmp_path / name)[0].state_dict()

    begin, trained = weights("begin", "*"), weights("trained", "blocks.*")
    same = {name for name in begin if torch.equal(begin[name], trained[name])}
    assert same == {name for name in begin if name.startswith("blocks.")}
    config = config_of(rates=(RateConfig("blocks.0.mixr.*", 2.0),))
    with pytest.raises(ConfigError, match=r"training.rates.0.parameters: expected the name of a parameter, .*mixr"):
        train_task(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_only_full_lengths_show_that_a_task_is_mastered(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "MASTERED", 0.0)
    outcome = train_task(tmp_path / "run", config_of(lengths="uniform", steps=40))
    assert outcome.solved_at is not None
    lengths = [line["length"] for line in lines_of(tmp_path / "run")]
    assert outcome.solved_at[0] == 1 + lengths.index(8) > 1
