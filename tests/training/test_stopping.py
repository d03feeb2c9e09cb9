"""Stopping at any moment loses nothing, killing at any moment loses at most a save interval."""

import json
import multiprocessing
import os
import random
import signal
import threading
import time

import pytest
import torch
from listeners import At, Listener
from small import small_config

from matrixstate.training import start, train
from matrixstate.training.checkpoint import find_checkpoint

INTERVAL = 5


def losses(run):
    return {line["step"]: line["loss"] for line in run.metrics() if "loss" in line}


def curve(run):
    """Every number of the metrics but the speed."""
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in run.metrics()]


@pytest.fixture
def whole(tmp_path):
    """A run that was never interrupted."""
    run = start(tmp_path / "whole", small_config(tmp_path))
    train(run)
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("when", [1, 4, 7, 12])
def test_a_signal_finishes_the_step_and_saves(number, when, whole, tmp_path):
    run = start(tmp_path / "run", small_config(tmp_path))
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    outcome = train(run, [At(when, lambda: os.kill(os.getpid(), number))])
    assert (outcome.step, outcome.stopped) == (when, number)
    assert find_checkpoint(run.checkpoints)[0].name == f"step-{when:08d}"
    assert json.loads((run.directory / "status.json").read_text()) == {"status": "stopped", "step": when}
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert train(run, resume=True).step == 12
    assert curve(run) == curve(whole)


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_during_evaluation_or_saving_loses_nothing(last, whole, tmp_path, monkeypatch):
    from matrixstate.training import resume, streams

    run, evaluate, calls = start(tmp_path / "run", small_config(tmp_path)), streams.text_loss, []

    def interrupted(*arguments, progress=None, **options):
        calls.append(1)
        if len(calls) == (3 if last else 2):
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments, progress=progress, **options)

    monkeypatch.setattr(streams, "text_loss", interrupted)
    outcome = train(run)
    assert (outcome.step, outcome.stopped, outcome.validation) == (12 if last else 8, signal.SIGTERM, None)
    train(run, resume=True)
    assert curve(run) == curve(whole)

    again, save = start(tmp_path / "again", small_config(tmp_path)), resume.save_checkpoint
    monkeypatch.undo()

    def killed(*arguments, **options):
        monkeypatch.setattr(resume, "save_checkpoint", save)
        os.kill(os.getpid(), signal.SIGINT)
        return save(*arguments, **options)

    monkeypatch.setattr(resume, "save_checkpoint", killed)
    assert train(again).stopped == signal.SIGINT
    monkeypatch.undo()
    train(again, resume=True)
    assert curve(again) == curve(whole)


def test_training_works_outside_the_main_thread(tmp_path):
    run, outcomes = start(tmp_path / "run", small_config(tmp_path, steps=2)), []
    worker = threading.Thread(target=lambda: outcomes.append(train(run)))
    worker.start()
    worker.join()
    assert outcomes[0].step == 2


def in_a_child(work):
    """Runs `work` in a forked process, which has PyTorch loaded; it exits without the parent's cleanup and output."""

    def run():
        torch.set_num_threads(1)
        work()
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


class Slowly(Listener):
    """Makes every step take a moment, so that a second signal finds it."""

    def step(self, step, loss, learning_rate, gradient_norm, tokens_per_second):
        time.sleep(0.2)


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once(tmp_path):
    run = start(tmp_path / "run", small_config(tmp_path, steps=1000))
    os.environ["OMP_NUM_THREADS"] = "1"

    class Stuck(Listener):
        def step(self, step, loss, learning_rate, gradient_norm, tokens_per_second):
            (tmp_path / "begun").touch()
            time.sleep(60)

    process = in_a_child(lambda: train(run, [Stuck()]))
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert process.exitcode == -signal.SIGINT


@pytest.mark.slow
def test_killing_at_fifty_random_moments_costs_at_most_an_interval(tmp_path):
    """SIGKILL leaves no time to save; the curve must still be that of a run that was never interrupted."""
    torch.set_num_threads(1)
    config = small_config(tmp_path, steps=10_000, checkpoint_every=INTERVAL, evaluate_every=7)
    undisturbed, run = start(tmp_path / "whole", config), start(tmp_path / "run", config)
    began = time.monotonic()
    train(undisturbed, stop_after=20)
    pace, chance, lost = (time.monotonic() - began) / 20, random.Random(0), []
    for _ in range(50):
        resume = any(run.checkpoints.glob("step-*"))
        process = in_a_child(lambda resume=resume: train(run, resume=resume))
        process.join(0.02 + chance.random() * pace * 14)
        assert process.is_alive()
        process.kill()
        process.join()
        if any(run.checkpoints.glob("step-*")):
            saved = find_checkpoint(run.checkpoints)[0]
            lost.append(max(losses(run), default=0) - int(saved.name.removeprefix("step-")))
    reached = train(run, resume=True, stop_after=INTERVAL).step
    train(undisturbed, resume=True, stop_after=reached - 20)
    assert max(lost) <= INTERVAL
    assert sum(lost) > 0  # steps were lost, and taken again
    assert curve(run) == curve(undisturbed)
