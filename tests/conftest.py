"""Strictness for every test: fixed seeds, memory born as NaN, and skips of backends that can be forbidden."""

import os
from pathlib import Path

import pytest
import torch

from matrixstate.ops import OPS

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _strict():
    """Deterministic algorithms also fill `torch.empty` with NaN, so that an element never written is seen."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # small tensors gain nothing from more, and lose much where the processor is shared
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


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
