"""The Triton kernel of the causal convolution: what belongs to it alone."""

import pytest
import torch
from cases import conv

from conftest import need
from matrixstate.errors import BackendUnavailable
from matrixstate.ops import causal_conv


@pytest.fixture(autouse=True)
def _triton_is_needed():
    need("causal_conv", "triton")


def test_without_a_bias_and_resets_it_is_as_with_zeros():
    x, weight, state = torch.randn(2, 18, 5), torch.randn(5, 4), torch.randn(2, 3, 5)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, state)]
    none = torch.zeros(2, 18, dtype=torch.bool)
    found = []
    for bias, reset in ((None, None), (torch.zeros(5), none)):
        outputs = causal_conv(x, weight, bias, state, reset=reset, activation="silu", backend="triton")
        incoming = [torch.ones_like(out) for out in outputs]
        found.append([*outputs, *torch.autograd.grad(outputs, leaves, incoming)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_reset_replaces_what_is_not_finite():
    x, weight = torch.randn(2, 19, 5), torch.randn(5, 4)
    x[:, 4] = torch.nan
    reset = torch.zeros(2, 19, dtype=torch.bool)
    reset[:, 5] = True
    leaves = [tensor.requires_grad_() for tensor in (x, torch.full((2, 3, 5), torch.nan))]
    y, last = causal_conv(x, weight, None, leaves[1], reset=reset, activation="silu", backend="triton")
    assert not y[:, 4].isfinite().any()
    assert y[:, 5:].isfinite().all()
    assert last.isfinite().all()
    dx, _ = torch.autograd.grad(y[:, 5:].sum() + last.sum(), leaves)
    assert dx[:, 5:].isfinite().all()


def test_long_filters_are_refused_in_words():
    message = "triton: keeps the inputs of a filter in registers, for which K must be at most 8"
    for backend, error in (("triton", True), ("auto", False)):  # the others have no such bound
        case = conv(backend, K=9)
        arguments = case.sequence(3, torch.float32), case.fixed(torch.float32), case.state(torch.float32)
        if error:
            with pytest.raises(BackendUnavailable, match=message):
                case.run(*arguments)
        else:
            case.run(*arguments)
