"""Strictness for every test: fixed seeds, uninitialized memory filled with NaN, and skips that can be forbidden."""

import os
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

# Before anything imports Triton: on a CPU its kernels are interpreted.
os.environ.setdefault("TRITON_INTERPRET", "1" if os.environ.get("MATRIXSTATE_TEST_DEVICE", "cpu") == "cpu" else "0")

import pytest
import torch

from matrixstate.ops import OPS

# Where tests run: MATRIXSTATE_TEST_DEVICE=cuda python -m pytest tests/ops -k triton runs those of Triton on a GPU.
DEVICE = os.environ.get("MATRIXSTATE_TEST_DEVICE", "cpu")
if DEVICE != "cpu":
    torch.set_default_device(DEVICE)

# Skips that are allowed with MATRIXSTATE_TEST_SKIPS=listed, as in CI: the start of the reason -> why it is allowed.
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
    """Seeds, and deterministic algorithms, which also fill `torch.empty` with NaN: an unwritten element is noticed.

    MATRIXSTATE_TEST_THREADS sets the number of threads, as CI does.
    """
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def pytest_runtest_logreport(report):
    """Collects skips that are not allowed."""
    if not report.skipped or hasattr(report, "wasxfail"):  # an expected failure reports itself as skipped
        return
    reason = (
        report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
    )
    if not reason.startswith(tuple(ALLOWED_SKIPS)):
        _unlisted_skips.append(f"{report.nodeid}: {reason}")


def pytest_collectreport(report):
    """As above, for a module that skips itself during collection."""
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
    """A function from a name to the path of a shared corpus; skips the test if it is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"the shared corpus {name} is not beside this checkout")
        return path

    return find


def need(op: str, backend: str, dtype: torch.dtype = torch.float32) -> None:
    """Skips the test if a backend cannot run here; fails it if MATRIXSTATE_TEST_BACKENDS lists that backend."""
    reason = next(b for b in OPS[op] if b.name == backend).why_not(DEVICE, dtype)
    if reason is None:
        return
    if backend in os.environ.get("MATRIXSTATE_TEST_BACKENDS", "").split(","):
        pytest.fail(f"{op}: {backend} must run here: {reason}")
    pytest.skip(f"{op}: {backend}: {reason}")


@pytest.fixture(scope="module")
def case(request):
    """A case of tests/ops/cases, by indirect parametrization; skipped if its backend cannot run here."""
    need(request.param.op, request.param.backend, request.param.dtype)
    return request.param


@pytest.fixture(scope="session")
def published():
    """A module of a published implementation by its name, such as "transformers"; skips the test where it is absent."""

    def find(name):
        package = name.partition(".")[0]
        if find_spec(package) is None:
            if os.environ.get("MATRIXSTATE_TEST_SKIPS") == "listed":
                pytest.fail(f"{package} must be installed here: pip install -e '.[dev]'")
            pytest.skip(f"{package} is not installed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what they import
            return import_module(name)

    return find
