"""Which backend an op takes: a preference is an order of names, and nothing that is not named is taken."""

import importlib.util
import inspect
import sys
from types import ModuleType

import pytest
import torch

from matrixstate.errors import BackendUnavailable
from matrixstate.ops import OPS, backends, outer_scan, prefer
from matrixstate.ops._dispatch import Backend, implementation

AUTO = backends("cpu", torch.float32)


def test_the_first_preferred_backend_that_an_op_has_is_taken():
    with prefer("chunked", "reference"):
        chosen = backends("cpu", torch.float32)
    by_chunks = {"delta_scan", "dense_lti_scan", "linear_scan", "lti_scan", "normalised_scan", "outer_scan"} | {
        "selective_scan"
    }
    assert {op for op, name in chosen.items() if name == "chunked"} == by_chunks
    assert set(chosen.values()) == {"chunked", "reference"}
    assert backends("cpu", torch.float32) == AUTO


def test_an_op_without_any_preferred_backend_is_not_affected():
    with prefer("composed"):
        chosen = backends("cpu", torch.float32)
    assert chosen == {**AUTO, "mru_scan": "composed"}


def test_a_preferred_backend_that_cannot_run_gives_way_to_preferred_ones_alone():
    """The kernels have no float64."""
    with prefer("cpu", "reference"):
        assert backends("cpu", torch.float64)["m2rnn_scan"] == "reference"
    with prefer("cpu"), pytest.raises(BackendUnavailable, match="no backend can run torch.float64 on cpu: cpu: "):
        backends("cpu", torch.float64)


def test_a_name_that_no_op_has_is_refused():
    message = "prefer: backend must be one of chunked, .*, got 'triton2'"
    with pytest.raises(BackendUnavailable, match=message), prefer("triton2"):
        pass


def test_a_further_backend_is_a_module_and_a_line(monkeypatch):
    module = ModuleType("matrixstate_further_backend")
    module.unsupported = lambda device, dtype, *details: None if dtype == torch.float32 else "is for float32"
    module.outer_scan = lambda q, k, v, *options: (v + 1, options[-3])
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(OPS, "outer_scan", (Backend("further", module.__name__), *OPS["outer_scan"]))
    q = torch.zeros(1, 2, 3, 4)
    y, state = outer_scan(q, q, q, backend="further")
    assert torch.equal(y, q + 1)
    assert torch.equal(state, torch.zeros(1, 3, 4, 4))
    with pytest.raises(BackendUnavailable, match="further: is for float32"):
        outer_scan(q.double(), q.double(), q.double(), backend="further")


FURTHER = {
    "causal_conv": ["gated_conv_step"],
    "delta_scan": ["gated_delta_product"],
    "m2rnn_scan": ["m2rnn_step"],
    "mru_scan": ["mru_step"],
}


@pytest.mark.parametrize("op", OPS)
def test_all_backends_of_an_op_have_one_signature(op):
    for function in (op, *FURTHER.get(op, [])):
        signatures = {}
        for backend in OPS[op]:
            if importlib.util.find_spec(backend.requires) is not None:
                run = getattr(backend.load(), function)
                parameters = inspect.signature(run).parameters.values()
                signatures[backend.name] = [
                    (p.name, p.annotation) for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY
                ]
        assert all(signature == signatures["reference"] for signature in signatures.values()), signatures


def test_the_function_is_that_of_the_chosen_backend():
    for name in ("chunked", "reference"):
        run = implementation("delta_scan", name, "cpu", torch.float32, function="gated_delta_product")
        assert run.__module__ == f"matrixstate.ops.delta.{name}"
