"""A device that is too small for a step: one message with what needs less, and a run that goes on with that."""

import json
import shlex
from dataclasses import replace

import pytest
import torch
from small import small_config

from matrixstate.cli.__main__ import main
from matrixstate.cli.output import TrainingProgress
from matrixstate.data.tasks import ParityConfig
from matrixstate.errors import MatrixStateError, OutOfMemory
from matrixstate.layers import MLPConfig
from matrixstate.models import BlockConfig, ModelConfig
from matrixstate.training import Run, TaskRunConfig, TaskTrainingConfig, TextTrainingConfig, memory, start, train
from matrixstate.training.session import Session


@pytest.fixture
def small_device(monkeypatch):
    """A device that has room for two sequences."""
    gradient = Session._gradient

    def compute(session, batch):
        if len(batch.tokens) // session.stream.parts > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")
        return gradient(session, batch)

    monkeypatch.setattr(Session, "_gradient", compute)
    monkeypatch.setattr(memory, "total_memory", lambda device: 80e9)


def test_a_lack_of_memory_is_one_message_and_the_command_in_it_helps(small_device, tmp_path, capsys):
    run = start(tmp_path / "run", small_config(tmp_path))
    with pytest.raises(OutOfMemory) as raised:
        train(run)
    message = str(raised.value)
    expected = (
        "training: expected a step of 4 sequences of 16 tokens to fit into the 80.0 GB of cpu, got out of memory; "
        "less is needed with training.accumulate=2 or training.recompute=blocks or training.precision=bfloat16; as in: "
    )
    command = f"matrixstate train --resume {run.directory} --set training.accumulate=2 --accept training.accumulate"
    assert message == expected + command
    assert json.loads((run.directory / "status.json").read_text()) == {"status": "failed", "step": 0, "reason": message}
    assert main(["train", "--resume", str(run.directory), "--device", "cpu"]) == 1
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert main([*shlex.split(command)[1:], "--device", "cpu"]) == 0
    assert Run.open(run.directory).config.training.accumulate == 2
    assert issubclass(OutOfMemory, MatrixStateError)


def test_the_message_counts_the_sequences_at_once(small_device, tmp_path):
    options = {"batch": 12, "accumulate": 4, "recompute": "blocks", "precision": "bfloat16"}
    with pytest.raises(
        OutOfMemory, match="12 sequences of 16 tokens, 3 at once, to fit .* with training.accumulate=12;"
    ):
        train(start(tmp_path / "run", small_config(tmp_path, **options)))


def test_a_task_has_a_smaller_batch(small_device, tmp_path):
    model = ModelConfig(8, (BlockConfig(None, MLPConfig(8)),), tied=False)
    training = TaskTrainingConfig(steps=2, length=8, lengths="full", batch=6)
    config = TaskRunConfig("tiny", model, ParityConfig(), training, evaluate_length=8, evaluate_sequences=2)
    with pytest.raises(OutOfMemory, match=r"6 sequences of 8 tokens to fit .* or training.batch=3; as in: .*blocks"):
        train(start(tmp_path / "run", config))


def test_what_is_small_already_is_not_proposed():
    least = TextTrainingConfig(batch=4, accumulate=4, recompute="blocks", precision="bfloat16")
    assert memory.smaller(least) == []
    assert memory.smaller(replace(least, accumulate=3, batch=9)) == ["training.accumulate=9"]
    assert memory.smaller(replace(least, precision="float32")) == ["training.precision=bfloat16"]


def test_another_error_stays_what_it_is(tmp_path, monkeypatch):
    def fail(session, batch):
        raise RuntimeError("something else")

    monkeypatch.setattr(Session, "_gradient", fail)
    with pytest.raises(RuntimeError, match="^something else$"):
        train(start(tmp_path / "run", small_config(tmp_path)))


def test_the_progress_line_shows_the_memory_of_a_gpu(capsys):
    with TrainingProgress("small", 1) as progress:
        progress.step(1, 2.5, 1e-3, 1.0, 1000.0, memory=3_000_000)
    assert "1,000 tokens/s 3.0 MB" in capsys.readouterr().err
