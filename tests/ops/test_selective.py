"""selective_scan: many chunks, what it keeps for the backward pass, and what it is by another name."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.errors import ShapeError
from matrixstate.ops import linear_scan, selective_scan

n, D, N, G = 2, 6, 3, 2


def drawn(T, **options):
    options = {"dtype": torch.float64, **options}
    x, step = torch.randn(n, T, D, **options), torch.rand(n, T, D, **options)
    B, C = (torch.randn(n, T, G, N, **options) for _ in range(2))
    return [a.requires_grad_() for a in (x, step, -torch.rand(D, N, **options), B, C)]


@pytest.mark.parametrize("T", [63, 64, 65, 150])
def test_many_chunks_are_one_sequence(T):
    inputs, reset = drawn(T), torch.rand(n, T) < 0.05
    state = torch.randn(n, D, N, dtype=torch.float64, requires_grad=True)
    skip = torch.randn(D, dtype=torch.float64, requires_grad=True)
    leaves, found = [*inputs, skip, state], []
    for backend in ("chunked", "reference"):
        y, last = selective_scan(*inputs, skip=skip, state=state, reset=reset, backend=backend)
        loss = (y * torch.linspace(0.5, 1.5, y.numel()).double().view_as(y)).sum() + last.square().sum()
        found.append([y, last, *torch.autograd.grad(loss, leaves)])
    names = ["y", "state", "dx", "dstep", "dA", "dB", "dC", "dskip", "dstate"]
    for name, got, expected in zip(names, *found, strict=True):
        assert_equal_to_rounding(got, expected, name)


def test_the_states_of_all_steps_are_not_kept_for_the_backward_pass():
    T, kept = 1024, []
    inputs = drawn(T)
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        selective_scan(*inputs)
    storages = {a.untyped_storage().data_ptr(): a.untyped_storage().nbytes() for a in kept}
    given = sum(a.untyped_storage().nbytes() for a in inputs)
    assert sum(storages.values()) < given + 2 * (T // 64) * 8 * n * D * N + given


def test_it_is_a_linear_scan_that_writes_and_reads_inside():
    x, step, A, B, C = drawn(40)
    decay = step[..., None] * A
    write = (step * x)[..., None] * B.repeat_interleave(D // G, dim=2)
    h, last = linear_scan(write, log_decay=decay)
    y, state = selective_scan(x, step, A, B, C)
    assert_equal_to_rounding(y, (h * C.repeat_interleave(D // G, dim=2)).sum(-1), "y")
    assert_equal_to_rounding(state, last, "state")


def test_mistakes_are_named():
    x, step, A, B, C = drawn(5)
    with pytest.raises(ShapeError, match="selective_scan: the groups of B must divide the 6 channels of x, got 4"):
        selective_scan(x, step, A, torch.randn(n, 5, 4, N).double(), C)
    with pytest.raises(ShapeError, match=r"selective_scan: C must be torch.float64 \[2, 5, 2, 3\]"):
        selective_scan(x, step, A, B, C[:, :, :1])
    with pytest.raises(ShapeError, match=r"selective_scan: A must be floating point \[6, 3\]|A must be"):
        selective_scan(x, step, A[:5], B, C)
