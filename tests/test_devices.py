"""Devices by name, those that are not there, and everything on a device other than the CPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from matrixstate.cli.__main__ import main
from matrixstate.devices import find_device
from matrixstate.errors import ConfigError


def test_everything_runs_on_another_device():
    """In a process of its own: with a further device PyTorch's autograd has threads, and cannot be forked any more."""
    tests = Path(__file__).parent / "devices" / "on_a_device.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tests)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tests.parents[2])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device: expected one of auto, cpu, cuda, cuda:N, mps, got 'gpu'"),
        ("cuda:x", "device: expected one of auto, cpu, cuda, cuda:N, mps, got 'cuda:x'"),
        ("cpu:7", "device: expected one of auto, cpu, cuda, cuda:N, mps, got 'cpu:7'"),
        ("privateuseone", "device: expected one of auto, cpu, cuda, cuda:N, mps, got 'privateuseone'"),
        ("cuda", "device: expected a device of this machine, got 'cuda': PyTorch .* is built without CUDA"),
        ("cuda:1", "device: expected a device of this machine, got 'cuda:1': PyTorch .* is built without CUDA"),
        ("mps", "device: expected a device of this machine, got 'mps': it is part of macOS"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(name, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        find_device(name)
    assert main(["evaluate", str(tmp_path), "--device", name]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("matrixstate: error: device: ")


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert find_device().type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert find_device("auto").type == "cuda"
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="'cuda:2': there are 2, counted from 0"):
        find_device("cuda:2")
