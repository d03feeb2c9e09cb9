"""What the Triton kernels need of GPUs, by the figures of their compilers: the regression test of speed without a GPU.

Ceilings are a tenth above what Triton 3.9 gives (triton_ceilings/, by size and program: registers, then for every
innermost loop its instructions, products on tensor cores, special functions and moves between threads); a kernel that
gets better may lower them, and docs/speed.md then changes with them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import need
from matrixstate.ops import OPS

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "triton_resources.py"
CEILINGS = Path(__file__).with_name("triton_ceilings")
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}  # what one program may have
KERNELS = [op for op, backends in OPS.items() if "triton" in [backend.name for backend in backends]]


def compile_programs(op, folder, *options):
    """The rows of the script, which runs in another process, as here the kernels are interpreted."""
    need(op, "triton")
    file, cache = folder / "resources.json", {"TRITON_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, str(SCRIPT), op, "--json", str(file), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | cache)
    assert done.returncode == 0, done.stderr
    return json.loads(file.read_text())


def assert_within_ceilings(rows):
    for row in rows:
        what = ", ".join(row[name] for name in ("op", "size", "program", "operands"))
        allowed = json.loads((CEILINGS / f"{row['op']}.json").read_text())[row["size"]]
        registers, *loops = allowed[f"{row['program']}, {row['operands']}"]
        for target, found in ((target, row[target]) for target in SHARED if target in row):
            assert found["spilled"] == 0, f"{what}, {target}: {found['spilled']} spilled"
            assert found["shared"] <= SHARED[target], f"{what}, {target}: {found['shared']} bytes shared"
            if "loops" not in found:
                continue
            assert found["registers"] <= registers, f"{what}, {target}: {found['registers']} registers"
            for counts, ceilings in zip(found["loops"], loops, strict=True):
                moves = counts["LDS"] + counts["STS"] + counts["SHFL"]
                got = counts["all"], counts["HMMA"] + counts["HGMMA"], counts["MUFU"], moves
                assert all(n <= most for n, most in zip(got, ceilings, strict=True)), f"{what}: {got}, not {ceilings}"


@pytest.mark.parametrize("op", KERNELS)
def test_no_register_is_spilled_and_a_step_takes_no_more_instructions(op, tmp_path):
    assert_within_ceilings(compile_programs(op, tmp_path, "--first", "--targets", "sm_90"))


@pytest.mark.slow
@pytest.mark.parametrize("op", KERNELS)
def test_on_every_kind_of_gpu_at_every_size(op, tmp_path):
    rows = compile_programs(op, tmp_path)
    assert {target for row in rows for target in SHARED if target in row} == set(SHARED)
    assert_within_ceilings(rows)
