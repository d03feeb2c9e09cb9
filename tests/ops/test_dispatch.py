"""Which backend an op takes: a preference is an order of names, and nothing that is not named is taken."""

import pytest
import torch

from matrixstate.errors import BackendUnavailable
from matrixstate.ops import backends, prefer

AUTO = backends("cpu", torch.float32)


def test_the_first_preferred_backend_that_an_op_has_is_taken():
    with prefer("chunked", "reference"):
        chosen = backends("cpu", torch.float32)
    assert {op for op, name in chosen.items() if name == "chunked"} == {"delta_scan", "outer_scan"}
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
