"""Numbers that a refactoring must not change: float64 to the eleven digits kept, float32 within a band around them."""

import json
import os
import subprocess
import sys

import pytest
import torch
from curves import FILE, MIXERS, STEPS, curve

KEPT = json.loads(FILE.read_text())
BAND = 5e-4  # relative: what twenty steps of float32 may drift from float64


def test_every_mixer_has_a_curve():
    assert KEPT.keys() == MIXERS.keys()
    assert all(len(losses) == STEPS for losses in KEPT.values())
    assert all(float(losses[-1]) < 0.95 * float(losses[0]) for losses in KEPT.values())


@pytest.mark.parametrize("name", MIXERS)
def test_float64_is_the_same_to_every_digit_kept(name):
    got = curve(name, torch.float64)
    for step, (loss, kept) in enumerate(zip(got, KEPT[name], strict=True)):
        assert abs(loss - float(kept)) <= 1e-11 * float(kept), f"step {step}: {loss!r}, kept {kept}"


@pytest.mark.parametrize("name", MIXERS)
def test_float32_stays_within_the_band(name):
    got = curve(name, torch.float32)
    for step, (loss, kept) in enumerate(zip(got, KEPT[name], strict=True)):
        assert abs(loss - float(kept)) <= BAND * float(kept), f"step {step}: {loss!r}, kept {kept}"


def test_the_same_seed_gives_the_same_bits():
    for name in ("mru ldu", "m2rnn", "attention"):
        assert curve(name, torch.float32) == curve(name, torch.float32)


def test_other_processes_give_the_same_bits():
    code = "import torch; torch.set_num_threads(1); from curves import curve; print(curve('m2rnn', torch.float32))"
    environment = {**os.environ, "PYTHONPATH": str(FILE.parent)}
    shown = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment).stdout
        for _ in "ab"
    }
    assert shown == {f"{curve('m2rnn', torch.float32)}\n"}
