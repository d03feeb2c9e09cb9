"""scripts/gpu_check.sh, as far as it runs without a GPU: with sizes for Triton's interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import need

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_stage_runs_and_writes_its_tables(tmp_path):
    need("m2rnn_scan", "triton")
    command = [ROOT / "scripts" / "gpu_check.sh", tmp_path, "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    report = (tmp_path / "report.md").read_text()
    for stage in ("card", "right", "speed", "models", "sweep"):
        tables = json.loads((tmp_path / f"{stage}.json").read_text())
        assert tables
        assert not [row for rows in tables.values() for row in rows if "error" in row and isinstance(row["error"], str)]
        assert all(f"### {table}" in report for table in tables)


@pytest.mark.slow
def test_what_fails_is_said_and_the_other_stages_run(tmp_path):
    need("m2rnn_scan", "triton")
    command = [ROOT / "scripts" / "gpu_check.sh", tmp_path, "--tiny", "--only", "models", "card", "--minutes", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 1
    assert "models stopped: out of time" in done.stdout
    assert "card stopped: out of time" in done.stdout
    assert (tmp_path / "report.md").exists()
