"""Strictness for every test: fixed seeds, memory born as NaN, and skips of backends that can be forbidden."""

import os
from pathlib import Path

import pytest
import torch

from matrixstate.ops import OPS

# What may be skipped where MATRIXSTATE_TEST_SKIPS=listed, as in CI: how a reason begins, and why it may.
ALLOWED_SKIPS = {
    "a small file system cannot be mounted here": "mounting needs rights that containers seldom have; a write that "
    "fails with ENOSPC is tested everywhere",
}
_unlisted_skips: list[str] = []

# Small tensors gain nothing from more than one thread, and lose much where the processor is shared.
THREADS = int(os.environ.get("MATRIXSTATE_TEST_THREADS", "1"))

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _strict():
    """Deterministic algorithms also fill `torch.empty` with NaN, so that an element never written is seen.

    MATRIXSTATE_TEST_THREADS runs everything with so many threads, as CI does.
    """
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def pytest_runtest_logreport(report):
    """Collects skips that are not allowed; an expected failure also reports itself as skipped."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = (
        report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
    )
    if not reason.startswith(tuple(ALLOWED_SKIPS)):
        _unlisted_skips.append(f"{report.nodeid}: {reason}")


def pytest_collectreport(report):
    """A module may skip itself when it is collected."""
    pytest_runtest_logreport(report)


def pytest_sessionfinish(session):
    if _unlisted_skips and os.environ.get("MATRIXSTATE_TEST_SKIPS") == "listed" and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    if _unlisted_skips and os.environ.get("MATRIXSTATE_TEST_SKIPS") == "listed":
        terminalreporter.section("skips that are not listed in tests/conftest.py")
        for line in sorted(set(_unlisted_skips)):
            terminalreporter.write_line(line)


@pytest.fixture
def shared_data():
    """A function from a name to a file of the shared corpora; skips where they are absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"the shared corpus {name} is not beside this checkout")
        return path

    return find


def need(op: str, backend: str, dtype: torch.dtype = torch.float32) -> None:
    """Skips where a backend cannot run on the CPU, unless MATRIXSTATE_TEST_BACKENDS says that here it must."""
    reason = next(b for b in OPS[op] if b.name == backend).why_not("cpu", dtype)
    if reason is None:
        return
    if backend in os.environ.get("MATRIXSTATE_TEST_BACKENDS", "").split(","):
        pytest.fail(f"{op}: {backend} must run here: {reason}")
    pytest.skip(f"{op}: {backend}: {reason}")


@pytest.fixture(scope="module")
def case(request):
    """A case of tests/ops/cases, given indirectly, whose backend can run here."""
    need(request.param.op, request.param.backend, request.param.dtype)
    return request.param
