"""Training on tasks: curriculum, the same weights from the same seed, exact resumption, and recorded failures."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from listeners import At, Memory

from matrixstate.configs import decode, encode
from matrixstate.data import Batch
from matrixstate.data.tasks import IGNORE, ParityConfig, WordProblemConfig
from matrixstate.errors import CheckpointError, ConfigError, Diverged
from matrixstate.evaluation.tracking import Tracking, track
from matrixstate.mixers import GRUConfig, MRUConfig
from matrixstate.models import BlockConfig, ModelConfig
from matrixstate.training import CHOICES, Run, TaskRunConfig, TaskTrainingConfig, objective, start, streams, train
from matrixstate.training.autopsy import perform_autopsy
from matrixstate.training.checkpoint import find_checkpoint
from matrixstate.training.curriculum import Curriculum
from matrixstate.training.optimizer import RateConfig
from matrixstate.training.tasks import load_task_model


def config_of(mixer=None, task=None, seed=0, **training):
    options = {"steps": 6, "length": 8, "batch": 4, "max_batch": 16, "warmup": 2, **training}
    return TaskRunConfig(
        name="tiny",
        model=ModelConfig(16, (BlockConfig(mixer or GRUConfig(conv=0), None),), tied=False),
        data=task or ParityConfig(),
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
        curriculum.update(accuracy)
    assert sorted(set(lengths)) == [2, 4, 8, 16, 20]
    assert lengths == sorted(lengths)
    assert lengths[:3] == [2, 2, 2]  # the mean over the first three is below 0.95
    for _ in range(50):
        curriculum.update(0.0)
    assert curriculum.length(99) == 20

    slow = Curriculum(TaskTrainingConfig(length=20), seed=0)
    assert [slow.update(0.9) for _ in range(50)][-1] == pytest.approx(0.9)
    assert slow.length(50) == 2


def test_the_mean_starts_anew_at_every_length():
    curriculum = Curriculum(TaskTrainingConfig(length=64), seed=0)
    assert curriculum.update(1.0) == 1.0
    assert curriculum.current == 4
    assert curriculum.update(0.5) == 0.5
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


def test_a_run_writes_all_of_its_files(tmp_path):
    config, memory = config_of(), Memory()
    outcome = train(start(tmp_path / "run", config), [memory])
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "tracking.json", "status.json"}
    assert Run.open(tmp_path / "run").config == config
    status, lines = status_of(tmp_path / "run"), lines_of(tmp_path / "run")
    assert status["status"] == "done"
    assert status["step"] == outcome.step == len(lines) == 6
    assert status["tokens"] == outcome.progress.tokens
    assert status["skipped"] == 0
    assert lines[0].keys() == {
        "step", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "length", "accuracy"
    }  # fmt: skip
    assert all(math.isfinite(line["loss"]) for line in lines)
    tracking = Tracking.from_data(json.loads((tmp_path / "run" / "tracking.json").read_text()))
    assert tracking.data() == outcome.tracking.data()
    assert tracking.length == 32
    assert tracking.sequences == 8


@pytest.mark.parametrize("mixer", [GRUConfig(conv=0), MRUConfig(heads=1, state_size=16)], ids=["gru", "mru"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(mixer, tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        train(start(tmp_path / name, config_of(mixer, seed=seed, lengths="uniform", start=2)))
    one, same, other = (dict(load_task_model(tmp_path / n)[0].named_parameters()) for n in ("one", "same", "other"))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])
    losses, same = ([line.get("loss") for line in lines_of(tmp_path / name)] for name in ("one", "same"))
    assert losses == same


def test_the_trained_model_gives_the_same_answers_when_loaded(tmp_path):
    config = config_of(MRUConfig(heads=1, state_size=16), WordProblemConfig("S3"))
    outcome = train(start(tmp_path / "run", config))
    model, loaded = load_task_model(tmp_path / "run")
    assert not model.training
    assert loaded == config
    assert model.config.vocabulary == 6
    assert track(model, config.data, (32,), sequences=8).data() == outcome.tracking.data()


def test_parity_is_learned_in_seconds(tmp_path):
    config = config_of(steps=200, length=16, batch=32, max_batch=128, learning_rate=1e-2, warmup=10)
    outcome = train(start(tmp_path / "run", config))
    assert outcome.tracking.token_accuracy(16) >= 0.99
    assert outcome.tracking.token_accuracy(32) >= 0.99
    assert outcome.solved_at is not None
    step, seconds = outcome.solved_at
    assert 0 < step <= 200
    assert 0 < seconds <= outcome.progress.cpu_seconds
    assert status_of(tmp_path / "run")["solved_at"] == [step, seconds]
    lengths = [line["length"] for line in lines_of(tmp_path / "run")]
    assert lengths == sorted(lengths)
    assert sorted(set(lengths)) == [2, 4, 8, 16]


def spoil(monkeypatch, steps):
    """Makes the losses of some steps infinite."""
    plain, calls = objective.cross_entropy, []

    def spoiled(*args, **options):
        calls.append(1)
        return plain(*args, **options) * (math.inf if len(calls) in steps else 1)

    monkeypatch.setattr(objective, "cross_entropy", spoiled)


def test_steps_that_are_not_finite_are_skipped(tmp_path, monkeypatch):
    spoil(monkeypatch, {2, 5})
    outcome = train(start(tmp_path / "run", config_of(max_skipped=2)))
    assert outcome.skipped == status_of(tmp_path / "run")["skipped"] == 2
    assert outcome.step == 6
    model, _ = load_task_model(tmp_path / "run")
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert [line["step"] for line in lines_of(tmp_path / "run") if "skipped" in line] == [2, 5]


def test_a_run_that_diverges_fails_with_a_reason_and_a_bundle_to_replay(tmp_path, monkeypatch):
    spoil(monkeypatch, {1, 3, 4})
    with pytest.raises(Diverged, match="step 4: expected a finite loss and gradient, got loss inf"):
        train(start(tmp_path / "run", config_of(max_skipped=2)))
    status = status_of(tmp_path / "run")
    assert status["status"] == "failed"
    assert "step 4" in status["reason"]
    assert find_checkpoint(tmp_path / "run" / "checkpoints")[0].name == "step-00000003"
    monkeypatch.undo()
    found = perform_autopsy(tmp_path / "run" / "failures" / "step-00000004")
    assert found.step == 4
    assert found.fault == {"float32": None, "float64": None}  # the model was not at fault
    assert found.loss["float32"] == pytest.approx(found.loss["float64"])


def interrupted_at(number):
    return [At(3, lambda: os.kill(os.getpid(), number))]


TRAINED = ("loss", "accuracy", "length", "gradient_norm", "learning_rate")


def trained(directory):
    """The results of a training that must not depend on where it was interrupted."""
    lines = [{key: line[key] for key in ("step", *TRAINED) if key in line} for line in lines_of(directory)]
    tracking = json.loads((directory / "tracking.json").read_text())
    return [line for line in lines if "loss" in line], load_task_model(directory)[0].state_dict(), tracking


def expect_equal(one, other):
    (lines, weights, tracking), (same_lines, same_weights, same_tracking) = trained(one), trained(other)
    assert lines == same_lines
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert tracking == same_tracking


@pytest.mark.parametrize("lengths", ["grow", "uniform"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_resumes_bit_for_bit(number, lengths, tmp_path):
    config = config_of(lengths=lengths, steps=30, length=16, learning_rate=1e-2, threshold=0.6)
    train(start(tmp_path / "whole", config))
    run = start(tmp_path / "run", config)
    stopped = train(run, interrupted_at(number))
    assert (stopped.step, stopped.stopped, stopped.tracking) == (3, number, None)
    assert status_of(tmp_path / "run") == {"status": "stopped", "step": 3}
    train(run, resume=True, stop_after=10)
    outcome = train(run, resume=True)
    expect_equal(tmp_path / "run", tmp_path / "whole")
    assert outcome.progress.tokens == status_of(tmp_path / "whole")["tokens"]
    if lengths == "grow":
        assert len({line["length"] for line in lines_of(tmp_path / "run")}) > 2  # the curriculum had a state to restore


def test_a_run_that_was_killed_resumes_bit_for_bit(tmp_path):
    mixer = MRUConfig(heads=1, state_size=16)
    config = config_of(mixer, steps=40, checkpoint_every=7, threshold=0.6, learning_rate=1e-2)
    train(start(tmp_path / "whole", config))
    run = start(tmp_path / "run", config)
    code = (
        "import os, signal, sys, torch; from pathlib import Path; from listeners import At; "
        "from matrixstate.training import Run, train; torch.set_num_threads(int(sys.argv[2])); "
        "train(Run.open(Path(sys.argv[1])), [At(25, lambda: os.kill(os.getpid(), signal.SIGKILL))])"
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, str(run.directory), str(torch.get_num_threads())]
    killed = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert find_checkpoint(run.checkpoints)[0].name == "step-00000021"
    train(run, resume=True)
    expect_equal(tmp_path / "run", tmp_path / "whole")


def test_codebooks_are_made_once_and_a_run_with_them_takes_no_more_steps(tmp_path):
    mixer = MRUConfig(
        heads=1, state_size=16, channels=16, builder="reshape_identity", norm=True, snap=4, codes=6, code_groups=1
    )
    config = config_of(mixer, WordProblemConfig("S3"), steps=12, length=16, codebooks="answers")
    train(start(tmp_path / "whole", config))
    run = start(tmp_path / "run", config)
    train(run, stop_after=5)
    assert load_task_model(tmp_path / "run")[0].config == config.initial_model()  # not corrected yet
    train(run, resume=True)
    expect_equal(tmp_path / "run", tmp_path / "whole")
    assert load_task_model(tmp_path / "run")[0].config == config.final_model()
    longer = run.reconfigure(dataclasses.replace(config, training=dataclasses.replace(config.training, steps=20)))
    with pytest.raises(CheckpointError, match="expected training.steps of 12, got 20: the codebooks of .* are made"):
        train(longer, resume=True)


def test_a_directory_that_holds_files_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="out: expected a new or empty directory, got .*full with files in it"):
        train(start(tmp_path / "full", config_of()))
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="out: cannot write .*thesis.txt"):
        train(start(tmp_path / "full" / "thesis.txt", config_of()))
    (tmp_path / "empty").mkdir()
    assert train(start(tmp_path / "empty", config_of(steps=1))).step == 1


@pytest.mark.parametrize("content", [None, "model: [", "- 1", "name: x"])
def test_a_directory_without_a_run_is_named(content, tmp_path):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(CheckpointError, match="run: .*config.yaml"):
        Run.open_task(tmp_path)


def test_all_mistakes_come_at_once():
    data = encode(config_of(), CHOICES)
    data["training"] |= {"steps": 0, "threshold": 2.0, "length": 1}
    with pytest.raises(ConfigError) as raised:
        decode(TaskRunConfig, data, CHOICES)
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


def test_a_rate_applies_and_one_that_matches_no_parameter_is_refused_before_anything_is_written(tmp_path):
    def weights(name, held):
        train(start(tmp_path / name, config_of(rates=(RateConfig(held, 0.0),))))
        return load_task_model(tmp_path / name)[0].state_dict()

    begin, trained = weights("begin", "*"), weights("trained", "blocks.*")
    same = {name for name in begin if torch.equal(begin[name], trained[name])}
    assert same == {name for name in begin if name.startswith("blocks.")}
    config = config_of(rates=(RateConfig("blocks.0.mixr.*", 2.0),))
    with pytest.raises(ConfigError, match=r"training.rates.0.parameters: expected the name of a parameter, .*mixr"):
        train(start(tmp_path / "run", config))
    assert not (tmp_path / "run").exists()


def test_only_full_lengths_show_that_a_task_is_mastered(monkeypatch, tmp_path):
    monkeypatch.setattr(streams, "MASTERED", 0.0)
    outcome = train(start(tmp_path / "run", config_of(lengths="uniform", steps=40)))
    assert outcome.solved_at is not None
    lengths = [line["length"] for line in lines_of(tmp_path / "run")]
    assert outcome.solved_at[0] == 1 + lengths.index(8) > 1


def test_the_accuracy_is_the_share_of_right_answers_to_the_last_bit():
    random = torch.Generator().manual_seed(0)
    for _ in range(200):
        shape = torch.randint(1, 40, (2,), generator=random).tolist()
        answers, targets = (torch.randint(3, shape, generator=random) for _ in range(2))
        targets[torch.rand(shape, generator=random) < 0.3] = IGNORE
        has_target = targets != IGNORE
        accuracy = objective.compute_accuracy(answers, Batch(answers, targets))
        expected = (answers == targets)[has_target].float().mean()
        torch.testing.assert_close(accuracy, expected, rtol=0, atol=0, equal_nan=True)
