"""Models, trainings and commands on a device other than the CPU. `tests/test_devices.py` runs this file."""

import copy
import json
import os
import signal

import pytest
import torch
from listeners import At, Listener, Memory
from pretend import NAME, READS, pretend_device, register
from small import small_config, text_file

import matrixstate
from matrixstate.cli.__main__ import main
from matrixstate.configs import encode, flatten
from matrixstate.errors import ConfigError, Diverged
from matrixstate.layers import state_leaves
from matrixstate.mixers import MIXERS
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig
from matrixstate.ops import prefer
from matrixstate.training import CHOICES, load_model, start, train
from matrixstate.training.checkpoint import find_checkpoint, read_tensors
from matrixstate.training.session import Session

register()

PLAIN = ("chunked", "composed", "sdpa", "reference")  # what the device has


def results(model, device):
    """Outputs, gradients and states of a whole sequence, of one token, and with padding and documents."""
    random = torch.Generator().manual_seed(0)
    tokens = torch.randint(11, (2, 9), generator=random).to(device)
    mask, reset = (torch.rand(2, 9, generator=random) < share for share in (0.8, 0.3))
    real, begins = mask.to(device), reset.to(device)
    found = []
    logits, state = model(tokens)
    gradients = torch.autograd.grad(logits.square().mean(), list(model.parameters()), materialize_grads=True)
    found += [logits, *gradients]
    logits, state = model(tokens[:, :1], state)
    found.append(logits)
    logits, _ = model(tokens, None, mask=real, reset=begins)
    found.append(logits[real])
    logits, state = model(tokens, state, mask=real)
    return [*found, logits[real], *state_leaves(state)]


@pytest.mark.parametrize("name", sorted(set(MIXERS) - {"bidirectional"}))
def test_every_mixer_runs_where_its_inputs_are(name):
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(64, (BlockConfig(MIXERS[name]()),), vocabulary=11)).eval()
    with pretend_device() as device:
        with prefer(*PLAIN):
            expected = results(copy.deepcopy(model), "cpu")
        model = model.to(device)
        assert model.device == device
        for got, right in zip(results(model, device), expected, strict=True):
            assert got.device == device
            torch.testing.assert_close(got.detach().cpu(), right.detach(), rtol=1e-4, atol=1e-5)


def test_the_device_of_the_tests_refuses_tensors_of_another():
    with pretend_device() as device:
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            torch.ones(3, device=device) + torch.ones(3)
        assert (torch.ones(3, device=device) + 1).cpu().tolist() == [2.0] * 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was trained on the device, stopped and resumed there."""
    place = tmp_path_factory.mktemp("device")
    with pretend_device() as device:
        made = start(place / "run", small_config(place), device)
        train(made, [At(5, lambda: os.kill(os.getpid(), signal.SIGINT))], device=device)
        train(made, resume=True, device=device)
    return made


def losses(run):
    return [line["loss"] for line in run.metrics() if "loss" in line]


def test_a_training_is_that_of_the_cpu_and_resumes(run, tmp_path):
    whole = start(tmp_path / "run", small_config(tmp_path))
    with prefer(*PLAIN):
        train(whole)
    assert losses(run) == pytest.approx(losses(whole), rel=1e-4)
    assert {line["memory"] for line in run.metrics() if "loss" in line} == {3_000_000}
    assert not any("memory" in line for line in whole.metrics())
    environment = json.loads((run.directory / "environment.json").read_text())
    assert environment["device"] == f"{NAME}:0"
    assert environment["backends"]["m2rnn_scan"] == "reference"


class Events(Listener):
    """Records when gradients are computed, when numbers are read, and when steps are reported."""

    def __init__(self, monkeypatch):
        self.seen, gradient = [], Session._gradient

        def compute(session, batch):
            self._note("compute", session.progress.step + 1)
            return gradient(session, batch)

        monkeypatch.setattr(Session, "_gradient", compute)
        READS.clear()

    def _note(self, *event):
        self.seen += [*READS, event]
        READS.clear()

    def step(self, step, *numbers, **observed):
        self._note("report", step)


def test_the_loop_reads_a_step_when_the_next_one_is_under_way(tmp_path, monkeypatch):
    """But for the first step and every tenth, whose states are measured."""
    with pretend_device() as device:
        run, events = start(tmp_path / "run", small_config(tmp_path, evaluate_every=100)), Events(monkeypatch)
        train(run, [events], device=device, stop_after=9)
    after_first = events.seen[events.seen.index(("compute", 3)) :]
    expected = [("compute", 3)]
    for step in range(3, 6):  # the fifth is saved
        expected += [("compute", step), "tolist", ("report", step - 1)]
    assert after_first[: len(expected) - 1] == expected[1:]


def poison(monkeypatch, when):
    """Makes the gradient's norm infinite whenever the gradient of one of these steps is computed."""
    gradient = Session._gradient

    def poisoned(session, batch):
        losses, norm, *rest = gradient(session, batch)
        bad = any(torch.equal(session.stream.batch(step - 1).tokens, batch.tokens.cpu()) for step in when)
        return (losses, norm / 0 if bad else norm, *rest)

    monkeypatch.setattr(Session, "_gradient", poisoned)


def weights_and_optimizer(run):
    checkpoint = find_checkpoint(run.checkpoints)[0]
    return {
        name: tensor
        for file in ("model", "optimizer")
        for name, tensor in read_tensors(checkpoint / f"{file}.safetensors").items()
        if not name.startswith("random")
    }


@pytest.mark.parametrize("when", [{1}, {4}, {5, 6}, {9}, {12}])
def test_a_step_that_is_not_finite_is_skipped_late_as_it_is_at_once(when, tmp_path, monkeypatch):
    poison(monkeypatch, when)
    options = {"on_nonfinite": "skip", "max_skipped": 2}
    found, memories = [], (Memory(), Memory())
    with prefer(*PLAIN), pretend_device() as device:
        for place, memory in zip(("cpu", device), memories, strict=True):
            run = start(tmp_path / str(place).replace(":", ""), small_config(tmp_path, **options))
            train(run, [memory], device=torch.device(place))
            found.append(run)
    weights = [weights_and_optimizer(run) for run in found]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)
    for key in ("loss", "skipped"):
        steps = [[line["step"] for line in run.metrics() if key in line] for run in found]
        assert steps[0] == steps[1]
    assert {line["step"] for line in found[1].metrics() if "skipped" in line} == when
    assert losses(found[1]) == pytest.approx(losses(found[0]), rel=1e-4)  # with the same dropout
    assert [m.split(":")[0] for m in memories[1].warnings] == [m.split(":")[0] for m in memories[0].warnings]
    reports = [json.loads(next((r.directory / "failures").glob("*/report.json")).read_text()) for r in found]
    norms = [[values["gradient_norm"] for values in report["parameters"].values()] for report in reports]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("when", [1, 7, 12])  # 4, 5, 8 and 10 are saved anyway
def test_a_step_that_is_not_finite_stops_a_run_late_with_the_weights_before_it(when, tmp_path, monkeypatch):
    with pretend_device() as device:
        run, before = (start(tmp_path / name, small_config(tmp_path)) for name in ("run", "before"))
        if when > 1:
            train(before, device=device, stop_after=when - 1)
        poison(monkeypatch, {when})
        with pytest.raises(Diverged, match=f"step {when}: expected a finite loss and gradient, got loss .* norm inf"):
            train(run, device=device)
        assert find_checkpoint(run.checkpoints)[0].name == f"step-{when - 1:08d}"
        if when > 1:
            one, other = weights_and_optimizer(run), weights_and_optimizer(before)
            assert all(torch.equal(one[name], other[name]) for name in other)
        monkeypatch.undo()
        train(run, resume=True, device=device)
        train(before, resume=when > 1, device=device)
    assert losses(run) == losses(before)


def test_a_run_moves_between_devices(run, tmp_path):
    here = start(tmp_path / "run", small_config(tmp_path))
    train(here, stop_after=6)
    with pretend_device() as device:
        train(here, resume=True, device=device)
    assert losses(here) == pytest.approx(losses(run), rel=1e-4)
    assert not load_model(run).embedding.weight.is_meta
    assert load_model(run).device.type == "cpu"


def test_a_backward_pass_in_its_own_thread_recomputes_with_the_backends_of_the_forward_pass():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(16, (BlockConfig(MIXERS["attention"]()),), vocabulary=11))
    found = []
    with pretend_device() as device:
        model = model.to(device)
        for model.recompute in (False, True):
            with prefer("reference"):  # "sdpa" would save other tensors
                loss = model(torch.zeros(2, 9, dtype=torch.int64, device=device))[0].square().mean()
            found.append(torch.autograd.grad(loss, list(model.parameters())))
        assert all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(*found, strict=True))


def test_commands_take_a_device(run, capsys):
    with pretend_device():
        for command in (
            ["evaluate", run.directory],
            ["generate", run.directory, "--tokens", 5, "--prompt", "9 b"],
            ["inspect", run.directory, "--text", "10 bottles", "--out", run.directory / "inspect"],
            ["check", run.directory, "--no-compile", "--tokens", 8],
        ):
            found = {}
            for device in ("cpu", NAME):
                assert main([*map(str, command), "--device", device, "--json"]) == 0
                found[device] = json.loads(capsys.readouterr().out)
            if command[0] == "evaluate":
                assert found[NAME]["nats_per_token"] == pytest.approx(found["cpu"]["nats_per_token"], rel=1e-4)


def test_a_task_is_trained_and_measured_on_a_device(tmp_path, capsys):
    mixer = {"kind": "mru", "heads": 1, "state_size": 16, "channels": 16, "builder": "reshape_identity", "norm": True}
    correction = {"snap": 4, "codes": 6, "code_groups": 1}
    config = {
        "data": {"kind": "word_problem", "group": "S3"},
        "model": {"width": 16, "blocks": [{"mixer": {**mixer, **correction}}], "tied": False},
        "training": {"steps": 5, "length": 16, "batch": 4, "max_batch": 16, "codebooks": "answers"},
        "evaluate_length": 16,
    }
    with pretend_device():
        options = {"device": NAME, "progress": False}
        trained = matrixstate.train(config, out=tmp_path / "run", **options)
        plain = {**config, "model": {**config["model"], "blocks": [{"mixer": mixer}]}}
        plain["training"] = {**config["training"], "codebooks": "trained"}
        matrixstate.train(plain, out=tmp_path / "plain", **options)
        assert trained.model.device.type == NAME
        expected = trained.track(32, sequences=4).token_accuracy(32)
        for command in (
            ["track", tmp_path / "run", "--length", 32, "--sequences", 4],
            ["automaton", tmp_path / "plain"],
        ):
            assert main([*map(str, command), "--device", NAME, "--json"]) == 0
        assert (
            main(["correct", str(tmp_path / "plain"), "--codes", "6", "--device", NAME, "--length", "32", "--json"])
            == 0
        )
        assert load_model(trained.run).device.type == "cpu"
    assert matrixstate.load(tmp_path / "run").track(32, sequences=4).token_accuracy(32) == expected


def test_a_comparison_runs_on_one_kind_of_device(tmp_path):
    small = {"width": 16, "blocks": [{"mixer": {"kind": "conv"}, "mlp": {"hidden": 8}}]}
    suite = {
        "name": "two-conv",
        "seeds": 1,
        "data": {"files": [str(text_file(tmp_path))], "validation": 0.05},
        "training": {"steps": 3, "sequence": 8, "batch": 2, "evaluate_every": 3},
        "models": [{"name": name, "model": small} for name in ("one", "other")],
        "match": {"by": "wall_time", "tolerance": 0.99},
    }
    options = {"out": tmp_path / "out", "progress": False}
    with pretend_device():
        found = matrixstate.compare(suite, device=NAME, **options)
        assert all(row.status == "done" for row in found._rows()[""])
        places = [tmp_path / "out", *(tmp_path / "out" / "runs").glob("*/seed-*/run")]
        assert len(places) == 3
        for place in places:
            assert json.loads((place / "environment.json").read_text())["device"] == NAME
        matrixstate.compare(tmp_path / "out", device=NAME, progress=False)
        with pytest.raises(ConfigError, match=f"--device: expected {NAME}, where .* was begun, got cpu"):
            matrixstate.compare(tmp_path / "out", device="cpu", progress=False)


def test_a_config_holds_no_device(tmp_path):
    assert not [key for key in flatten(encode(small_config(tmp_path), CHOICES)) if "device" in key]
