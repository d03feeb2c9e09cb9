"""The Triton kernel of snap_scan: what the tests of all Triton kernels (test_triton.py) do not cover."""

import pytest
import torch
from cases import differentiable

from conftest import need
from matrixstate.errors import BackendUnavailable
from matrixstate.ops import SnapState, snap_scan


@pytest.fixture(autouse=True)
def _triton_is_needed():
    need("snap_scan", "triton")


def codes(G, M, heads, D):
    return torch.randn(G, M, heads, D, D), torch.randn(G, M, heads, D, D)


@pytest.mark.parametrize("every", [1, 2, 7])
def test_corrections_fall_on_the_steps_of_plain_pytorch(every):
    x, (keys, values) = torch.eye(3) + 0.3 * torch.randn(2, 8, 2, 3, 3), codes(1, 4, 2, 3)
    state = SnapState(torch.randn(2, 2, 3, 3), torch.tensor([0, every - 1], dtype=torch.int32))
    mask, reset = torch.rand(2, 8) < 0.8, torch.rand(2, 8) < 0.2
    results = []
    for backend in ("triton", "reference"):
        leaves = differentiable({"x": x.clone(), "keys": keys.clone(), "values": values.clone()})
        h, last = snap_scan(*leaves, state, every=every, mask=mask, reset=reset, backend=backend)
        results.append([h, *last, *torch.autograd.grad(h.cumsum(1).sum(), leaves)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(results[0][2], results[1][2])


@pytest.mark.parametrize("D", [3, 16])
def test_a_product_of_zero_stays_zero(D):
    x, (keys, values) = torch.zeros(1, 3, 1, D, D), codes(1, 2, 1, D)
    h, last = snap_scan(x, keys, values, every=4, backend="triton")
    assert torch.equal(h, torch.zeros_like(h))
    assert torch.equal(last.matrix, h[:, -1])


def test_large_groups_are_refused_in_words():
    for heads, D in ((1, 65), (3, 33), (17, 3)):
        x, (keys, values) = torch.eye(D).expand(1, 1, heads, D, D), codes(1, 2, heads, D)
        with pytest.raises(BackendUnavailable, match=f"triton: .* at most 4096, got {heads} of order {D}"):
            snap_scan(x, keys, values, every=2, backend="triton")
        snap_scan(x, keys, values, every=2)  # the others have no such bound
