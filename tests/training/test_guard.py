"""Numbers that are not finite: the weights do not move, and the replay names the op that went wrong."""

import json
import math

import pytest
import torch
from listeners import Memory
from safetensors.torch import load_file, save_file
from small import small_config

from matrixstate.errors import CheckpointError, Diverged
from matrixstate.training import start, train
from matrixstate.training.autopsy import perform_autopsy
from matrixstate.training.checkpoint import find_checkpoint, read_tensors
from matrixstate.training.session import Session
from matrixstate.training.stopping import Stop


def losses(run):
    return {line["step"]: line["loss"] for line in run.metrics() if "loss" in line}


def poison(monkeypatch, when, where):
    """Puts a NaN into the loss or a gradient of some steps."""
    gradient, calls = Session._gradient, []

    def poisoned(self, batch):
        losses, norm, *rest = gradient(self, batch)
        calls.append(1)
        if len(calls) not in when:
            return losses, norm, *rest
        return ([loss * math.nan for loss in losses], norm, *rest) if where == "loss" else (losses, norm / 0, *rest)

    monkeypatch.setattr(Session, "_gradient", poisoned)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_the_weights_as_they_were(where, tmp_path, monkeypatch):
    run, first_four = start(tmp_path / "run", small_config(tmp_path)), start(tmp_path / "four", small_config(tmp_path))
    train(first_four, stop_after=4)
    poison(monkeypatch, {5}, where)
    with pytest.raises(
        Diverged, match="step 5: expected a finite loss and gradient, got .*matrixstate autopsy .*step-00000005"
    ):
        train(run)
    one, other = (load_file(find_checkpoint(r.checkpoints)[0] / "model.safetensors") for r in (run, first_four))
    assert all(torch.equal(one[name], other[name]) for name in one)
    status = json.loads((run.directory / "status.json").read_text())
    assert status["status"] == "failed"
    assert "step 5" in status["reason"]
    monkeypatch.undo()
    train(run, resume=True)
    train(first_four, resume=True)
    assert losses(run) == losses(first_four)


def test_only_so_many_steps_can_be_skipped(tmp_path, monkeypatch):
    config = small_config(tmp_path, on_nonfinite="skip", max_skipped=2)
    run, memory = start(tmp_path / "run", config), Memory()
    poison(monkeypatch, {3, 6}, "loss")
    train(run, [memory])
    assert sorted(losses(run)) == [1, 2, 4, 5, *range(7, 13)]
    assert [line["step"] for line in run.metrics() if "skipped" in line] == [3, 6]
    assert [message[:6] for message in memory.warnings] == ["step 3", "step 6"]
    assert "skipped (2 of at most 2)" in memory.warnings[1]
    monkeypatch.undo()
    poison(monkeypatch, {3, 6, 9}, "loss")
    with pytest.raises(Diverged, match="step 9"):
        train(start(tmp_path / "again", config))


def broken_run(tmp_path, change, **options):
    """The bundle of a run whose weights are changed by hand after three steps."""
    run = start(tmp_path / "run", small_config(tmp_path, **options))
    train(run, stop_after=3)
    session = Session(run, [], True, Stop())
    with torch.no_grad():
        change(dict(session.model.named_parameters()))
    with pytest.raises(Diverged):
        session.step()
    (bundle,) = sorted((run.directory / "failures").iterdir())
    return bundle


def test_an_overflow_is_told_from_mathematics_that_diverges(tmp_path):
    def grow(parameters):
        parameters["blocks.0.mlp.input.weight"] *= 1e30
        parameters["blocks.0.mlp.output.weight"] *= 1e30

    found = perform_autopsy(broken_run(tmp_path, grow))
    fault = found.fault["float32"]
    assert found.step == 4
    assert fault.phase == "forward"
    assert fault.module == "blocks.0.mlp.output"
    assert "mm" in fault.op
    assert fault.position[-1] < 16
    assert found.fault["float64"] is None
    assert math.isfinite(found.loss["float64"])
    assert "float64 stays finite, so the number format overflowed" in found.verdict


def test_a_nan_in_a_weight_is_found_where_it_is_used(tmp_path):
    def spoil(parameters):
        parameters["blocks.1.mixer.conv.weight"][3, 2] = math.inf

    found = perform_autopsy(broken_run(tmp_path, spoil))
    assert found.fault["float64"] is not None or found.loss["float64"] != found.loss["float64"]
    report = json.loads((broken := sorted((tmp_path / "run" / "failures").iterdir())[0] / "report.json").read_text())
    assert report["parameters"]["blocks.1.mixer.conv.weight"]["not_finite"] == 1
    assert broken.exists()


def test_a_bundle_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="expected a bundle in .*nothing: No such file"):
        perform_autopsy(tmp_path / "nothing")
    bundle = broken_run(tmp_path, lambda p: p["embedding.weight"].mul_(1e38))
    batch = read_tensors(bundle / "batch.safetensors")
    del batch["random"]
    save_file(batch, bundle / "batch.safetensors")
    with pytest.raises(CheckpointError, match=r"must hold tokens, targets and random, got \['targets', 'tokens'\]"):
        perform_autopsy(bundle)
    (bundle / "report.json").write_text("{}")
    with pytest.raises(CheckpointError, match="step-00000004 is damaged"):
        perform_autopsy(bundle)


def test_a_replay_repeats_dropout_exactly(tmp_path):
    bundle = broken_run(tmp_path, lambda p: p["embedding.weight"].mul_(1e38), dropout=0.4)
    first, second = perform_autopsy(bundle), perform_autopsy(bundle)
    assert first.fault == second.fault


@pytest.mark.parametrize("recompute", ["none", "blocks"])
def test_a_replay_of_an_accumulated_step_draws_the_same_dropout(recompute, tmp_path):
    run = start(tmp_path / "run", small_config(tmp_path, dropout=0.4, accumulate=2, recompute=recompute))
    train(run, stop_after=3)
    session, losses = Session(run, [], True, Stop()), []
    gradient = session._gradient

    def failing(batch):
        parts, norm, *rest = gradient(batch)
        losses.append(float(sum(parts)))
        return parts, norm / 0, *rest

    session._gradient = failing
    with pytest.raises(Diverged):
        session.step()
    (bundle,) = (run.directory / "failures").iterdir()
    assert perform_autopsy(bundle).loss["float32"] == pytest.approx(losses[0], rel=1e-6)
