"""What the Triton kernels need of GPUs, by the figures of their compilers: the regression test of speed without a GPU.

Ceilings are a tenth above what Triton 3.9 gives; a kernel that gets better may lower them, and docs/speed.md then
changes with them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import need

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "triton_resources.py"

# direction, operands, V: registers, and per innermost loop instructions, products on tensor cores (HMMA, and HGMMA,
# which is several), instructions of the special function unit, and those that move numbers between threads
CEILINGS = {
    ("forward", "bfloat16", 16): (70, [(166, 2, 8, 21)]),
    ("backward", "bfloat16", 16): (140, [(151, 2, 8, 10), (452, 6, 8, 64)]),
    ("forward", "float32", 16): (88, [(410, 12, 16, 55)]),
    ("backward", "float32", 16): (170, [(389, 12, 16, 44), (854, 36, 16, 116)]),
    ("forward", "bfloat16", 32): (82, [(178, 4, 8, 29)]),
    ("backward", "bfloat16", 32): (178, [(147, 4, 8, 13), (483, 12, 8, 94)]),
    ("forward", "float32", 32): (115, [(409, 24, 16, 73)]),
    ("backward", "float32", 32): (245, [(364, 24, 16, 57), (1037, 72, 16, 153)]),
    ("forward", "bfloat16", 64): (70, [(138, 4, 4, 22)]),
    ("backward", "bfloat16", 64): (227, [(111, 4, 4, 13), (435, 12, 4, 139)]),
    ("forward", "float32", 64): (115, [(312, 24, 8, 70)]),
    ("backward", "float32", 64): (235, [(296, 24, 8, 61), (1058, 72, 8, 192)]),
}


@pytest.mark.parametrize("V", [16, pytest.param(32, marks=pytest.mark.slow), pytest.param(64, marks=pytest.mark.slow)])
def test_no_register_is_spilled_and_a_step_takes_no_more_instructions(V, tmp_path):
    need("m2rnn_scan", "triton")
    file, cache = tmp_path / "resources.json", {"TRITON_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, str(SCRIPT), "--json", str(file), "--V", str(V)]  # here the kernels are interpreted
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | cache)
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert {row["target"] for row in found} == {"sm_80", "sm_90", "gfx942"}
    for row in found:
        what = " ".join(str(row[name]) for name in ("direction", "operands", "V", "target"))
        assert row["spilled"] == 0, f"{what}: {row['spilled']} spilled"
        if "loops" not in row:
            continue
        registers, loops = CEILINGS[row["direction"], row["operands"], V]
        assert row["registers"] <= registers, f"{what}: {row['registers']} registers"
        for counts, ceilings in zip(row["loops"], loops, strict=True):
            moves = counts["LDS"] + counts["STS"] + counts["SHFL"]
            got = counts["all"], counts["HMMA"] + counts["HGMMA"], counts["MUFU"], moves
            assert all(n <= most for n, most in zip(got, ceilings, strict=True)), f"{what}: {got}, not {ceilings}"
