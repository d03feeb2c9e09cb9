"""Checkpoints are complete or absent, damage is named, and nothing is ever unpickled."""

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from listeners import Memory
from safetensors.torch import load_file
from small import small_config

import matrixstate
from matrixstate.errors import CheckpointError
from matrixstate.training import Run, load_model, start, train
from matrixstate.training import checkpoint as checkpoints
from matrixstate.training.autopsy import perform_autopsy
from matrixstate.training.checkpoint import find_checkpoint, list_checkpoints, read_best, verify


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with two checkpoints; copied for every test."""
    place = tmp_path_factory.mktemp("trained")
    train(start(place / "run", small_config(place, steps=8, checkpoint_every=4, evaluate_every=100)))
    return place / "run"


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return Run.open(tmp_path / "run")


def losses(run):
    return {line["step"]: line["loss"] for line in run.metrics() if "loss" in line}


def test_the_last_few_and_the_best_are_kept(tmp_path):
    config = small_config(tmp_path, steps=40, checkpoint_every=3, evaluate_every=2, keep=2, learning_rate=0.3)
    run = start(tmp_path / "run", config)
    train(run)
    evaluations = {m["step"]: m["validation_loss"] for m in run.metrics() if "validation_loss" in m and m["step"] < 40}
    best = read_best(run.checkpoints)
    assert best.nats_per_token == min(evaluations.values())
    assert evaluations[best.step] == best.nats_per_token
    steps = [int(path.name[5:]) for path in list_checkpoints(run.checkpoints)]
    assert len(steps) == (2 if best.step in (39, 40) else 3)
    assert steps[-2:] == [39, 40]
    assert best.step in steps
    model = load_model(run, "best")
    saved = load_file(run.checkpoints / f"step-{best.step:08d}" / "model.safetensors")
    assert all(torch.equal(p, saved[name]) for name, p in model.named_parameters())


def test_a_checkpoint_can_be_named(run):
    assert find_checkpoint(run.checkpoints, "4")[0].name == "step-00000004"
    assert find_checkpoint(run.checkpoints, "0004")[0].name == "step-00000004"
    for name in ("5", "newest", "²", "9" * 5000):
        with pytest.raises(CheckpointError, match=f"expected checkpoint latest, best or a step of 4, 8, got '{name}'"):
            find_checkpoint(run.checkpoints, name)


def test_a_missing_best_is_named(run):
    with pytest.raises(CheckpointError, match="expected a best checkpoint in .*checkpoints, got none yet"):
        find_checkpoint(run.checkpoints, "best")


def test_a_copy_among_the_checkpoints_is_ignored(run):
    shutil.copytree(run.checkpoints / "step-00000008", run.checkpoints / "step-00000008.bak")
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step-00000004", "step-00000008"]
    assert find_checkpoint(run.checkpoints)[0].name == "step-00000008"
    assert find_checkpoint(run.checkpoints, "8")[0].name == "step-00000008"


FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("tenths", range(10))
def test_a_truncated_file_is_named_and_the_previous_checkpoint_taken(name, tenths, run):
    path = find_checkpoint(run.checkpoints)[0] / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenths // 10])
    with pytest.raises(CheckpointError, match=rf"{name} (must have \d+ bytes, got \d+|is damaged)"):
        verify(path.parent)
    found, damages = find_checkpoint(run.checkpoints)
    assert found.name == "step-00000004"
    assert len(damages) == 1
    assert str(path) in damages[0]


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("place", [0, 0.3, 0.999])
def test_a_flipped_bit_is_named_with_expected_and_got(name, place, run):
    path = find_checkpoint(run.checkpoints)[0] / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=rf"{name} must have SHA-256 [0-9a-f]{{64}}, got [0-9a-f]{{64}}"):
        find_checkpoint(run.checkpoints, "8")
    assert find_checkpoint(run.checkpoints)[0].name == "step-00000004"


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name, run):
    path = find_checkpoint(run.checkpoints)[0] / name
    path.unlink()
    with pytest.raises(CheckpointError, match=f"cannot read .*{name}: No such file"):
        find_checkpoint(run.checkpoints, "8")


def test_resuming_past_damage_says_so_and_ends_the_same(run, tmp_path):
    expected = losses(run)
    path = find_checkpoint(run.checkpoints)[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    memory = Memory()
    train(run, [memory], resume=True)
    assert losses(run) == expected
    assert re.search(r"model.safetensors must have \d+ bytes, got \d+; resuming from step-00000004", memory.warnings[0])
    assert "resuming from step-00000004" in (run.directory / "warnings.txt").read_text()


def test_no_usable_checkpoint_names_every_damage(run):
    for path in list_checkpoints(run.checkpoints):
        (path / "state.json").unlink()
    with pytest.raises(CheckpointError, match="got none; .*00000008/state.json.*; .*00000004/state.json"):
        find_checkpoint(run.checkpoints)


def test_a_truncated_last_line_of_the_metrics_is_ignored(run):
    expected = losses(run)
    path = run.directory / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 9, "lo')
    assert losses(run) == expected
    path.write_text('{"step": 1,\n' + path.read_text())
    with pytest.raises(CheckpointError, match="metrics.jsonl is damaged"):
        run.metrics()


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_leaves_the_previous_checkpoint_intact_and_says_so(after, run, monkeypatch):
    written, save = [], checkpoints.save_file

    def full(tensors, path):
        if len(written) >= after:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        written.append(path)
        save(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", full)
    if after == 2:
        monkeypatch.setattr(checkpoints, "write_json", lambda path, value: full({}, path))
    run = run.reconfigure(dataclasses.replace(run.config, training=dataclasses.replace(run.config.training, steps=9)))
    before = {path: path.read_bytes() for path in run.checkpoints.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="step 9: No space left on device; .*step-00000008 is intact"):
        train(run, resume=True)
    assert {path: path.read_bytes() for path in run.checkpoints.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    verify(find_checkpoint(run.checkpoints)[0])
    assert json.loads((run.directory / "status.json").read_text())["status"] == "failed"


@pytest.mark.slow
def test_a_real_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        run = start(disk / "run", small_config(tmp_path, steps=500, checkpoint_every=1, keep=100))
        with pytest.raises(CheckpointError, match="No space left on device"):
            train(run)
        kept, damages = find_checkpoint(run.checkpoints)
        assert not damages
        assert not list(run.checkpoints.glob(".*"))
        assert kept
    finally:
        subprocess.run(["umount", str(disk)], check=True)


class Bomb:
    """Pickles to something that writes a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def train_again(directory):
    train(Run.open(directory), resume=True)


def load_again(directory):
    load_model(Run.open(directory))


def replay(directory):
    perform_autopsy(directory / "failures" / "step-00000003")


def test_a_pickle_in_any_file_of_a_run_is_not_executed(run, tmp_path):
    (run.directory / "failures" / "step-00000003").mkdir(parents=True)
    for name in ("batch.safetensors", "model.safetensors", "report.json", "config.yaml"):
        (run.directory / "failures" / "step-00000003" / name).touch()
    blown = tmp_path / "blown"
    assert pickle.loads(pickle.dumps(Bomb(blown))) is None  # noqa: S301  (the bomb works)
    blown.rmdir()
    files = sorted(path.relative_to(run.directory) for path in run.directory.rglob("*") if path.is_file())
    assert len(files) > 12
    for i, path in enumerate(files):
        mined = shutil.copytree(run.directory, tmp_path / str(i))
        (mined / path).write_bytes(pickle.dumps(Bomb(blown)))
        for action in (train_again, load_again, replay):
            with contextlib.suppress(matrixstate.errors.MatrixStateError):
                action(mined)
            assert not blown.exists(), path


def test_the_product_never_unpickles_or_evaluates():
    forbidden = re.compile(r"torch\.load\(|pickle|\beval\(|\bexec\(|__import__|yaml\.load\(")
    for path in Path(matrixstate.__file__).parent.rglob("*.py"):
        found = forbidden.search(path.read_text(encoding="utf-8").replace(".eval()", "").replace("unpickled", ""))
        assert found is None, f"{path}: {found}"


def test_a_run_holds_text_and_tensors_only(run):
    files = {path.suffix for path in run.directory.rglob("*") if path.is_file()}
    assert files == {".yaml", ".json", ".jsonl", ".bin", ".safetensors"}


def damage(run, what):
    checkpoint = find_checkpoint(run.checkpoints)[0]
    if what == "no run":
        return Path("nowhere")
    if what == "config":
        (run.directory / "config.yaml").write_text("{name: x, model: {width: -1, blocks: [{mlp: {}}]}}")
    if what == "no checkpoint":
        shutil.rmtree(run.checkpoints)
    if what == "other model":
        config = run.directory / "config.yaml"
        config.write_text(config.read_text().replace("hidden: 20", "hidden: 24"))
    if what == "other weights":
        (checkpoint / "manifest.json").write_text("[]")
    return run.directory


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no run", "expected a run directory with .*config.yaml: No such file"),
        ("config", "config.yaml is damaged: .*width: expected at least 1, got -1"),
        ("no checkpoint", "expected a checkpoint in .*checkpoints, got none"),
        ("other model", r"does not fit the model: .*mlp.* must be torch.float32 \[.*24.*\], got torch.float32 \[.*20"),
    ],
)
def test_a_missing_or_foreign_run_is_named(what, message, run):
    with pytest.raises(CheckpointError, match=message):
        load_model(Run.open(damage(run, what)))
