"""phased_outer_scan and signed_outer_scan: their definitions, step by step, and angles of many turns."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.errors import ShapeError
from matrixstate.ops import outer_scan, phased_outer_scan, signed_outer_scan

B, T, H, K, V = 2, 23, 3, 4, 5
per = pytest.mark.parametrize("rows", [(), (K,)], ids=["per head", "per channel"])
reads = pytest.mark.parametrize("read", ["post", "pre"])
backends = pytest.mark.parametrize("backend", ["reference", "chunked"])


def drawn(rows, states):
    """q, k, v, a phase, a log decay and a first state, all with gradients, and resets."""
    shapes = [(B, T, H, K), (B, T, H, K), (B, T, H, V), (B, T, H, *rows), (B, T, H, *rows), (B, H, states, V)]
    q, k, v, phase, decay, state = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    leaves = [a.requires_grad_() for a in (q, k, v, 3 * phase, -decay.abs(), state)]
    return leaves, torch.rand(B, T) < 0.1


def definition(q, k, v, decay, S, read, reset):
    """S_t = diag(decay_t) S_{t-1} + k_t v_tᵀ, y_t = Re(q_tᵀ S); decay [B, T, H, 1 or K] real or complex."""
    rows = []
    for t in range(T):
        S = S.masked_fill(reset[:, t, None, None, None], 0)
        before = S
        S = decay[:, t, :, :, None] * S + k[:, t, :, :, None] * v[:, t, :, None]
        seen = S if read == "post" else before
        rows.append((q[:, t, :, :, None] * seen).sum(2).real)
    return torch.stack(rows, dim=1), S


def assert_same(got, expected, leaves):
    found = []
    for results in (got, expected):
        loss = sum((r * torch.linspace(0.5, 1.5, r.numel()).double().view_as(r)).sum() for r in results)
        found.append([*results, *torch.autograd.grad(loss, leaves, retain_graph=True)])
    names = ["y", "state", *(f"gradient {i}" for i in range(len(leaves)))]
    for name, one, other in zip(names, *found, strict=True):
        assert_equal_to_rounding(one, other, name)


@per
@reads
@backends
def test_a_complex_decay(rows, read, backend):
    leaves, reset = drawn(rows, 2 * K)
    q, k, v, phase, log_decay, state = leaves
    got = phased_outer_scan(
        q, k, v, phase, log_decay=log_decay, read=read, state=state, reset=reset, backend=backend, chunk=8
    )
    decay = torch.polar(log_decay.exp(), phase).view(B, T, H, -1)
    y, S = definition(q, k, v, decay, torch.complex(*state.chunk(2, dim=2)), read, reset)
    assert_same(got, (y, torch.cat([S.real, S.imag], dim=2)), leaves)


@per
@reads
@backends
def test_a_decay_of_any_sign(rows, read, backend):
    leaves, reset = drawn(rows, K)
    q, k, v, phase, _, state = leaves
    decay = torch.tanh(phase)
    got = signed_outer_scan(q, k, v, decay, read=read, state=state, reset=reset, backend=backend, chunk=8)
    assert_same(got, definition(q, k, v, decay.view(B, T, H, -1), state, read, reset), [q, k, v, phase, state])


def test_the_sum_of_many_angles_loses_no_digits():
    """Of 10,000 angles near 3 a sum in float32 would be wrong by about 0.01."""
    n = 10_000
    q, k, v = (torch.randn(1, n, 1, size) for size in (2, 2, 3))
    phase, decay = 3 + torch.rand(1, n, 1, 2), torch.full((1, n, 1), -0.5)
    y, state = phased_outer_scan(q, k, v, phase, log_decay=decay)
    exact, last = phased_outer_scan(*(a.double() for a in (q, k, v, phase)), log_decay=decay.double())
    assert_equal_to_rounding(y, exact.float(), "y")
    assert_equal_to_rounding(state, last.float(), "state")


def test_a_phase_of_pi_is_a_negative_decay_and_one_of_0_a_positive():
    q, k, v, phase, _, _ = drawn((), K)[0]
    decay = torch.tanh(phase)
    plain, _ = signed_outer_scan(q, k, v, decay)
    turned, state = phased_outer_scan(q, k, v, torch.pi * (decay < 0).double(), log_decay=decay.abs().log())
    assert_equal_to_rounding(turned, plain, "y")
    assert state.shape == (B, H, 2 * K, V)
    y, _ = signed_outer_scan(q, k, v, decay.abs())
    assert_equal_to_rounding(y, outer_scan(q, k, v, log_decay=decay.abs().log())[0], "y")


def test_a_decay_of_0_forgets_and_has_finite_gradients():
    q, k, v = (torch.randn(1, 3, 1, size, dtype=torch.float64) for size in (2, 2, 3))
    decay = torch.tensor([[[0.5], [0.0], [-0.5]]], dtype=torch.float64, requires_grad=True)
    y, _ = signed_outer_scan(q, k, v, decay)
    assert_equal_to_rounding(y[:, 1:], signed_outer_scan(q[:, 1:], k[:, 1:], v[:, 1:], decay[:, 1:])[0], "y")
    assert torch.autograd.grad(y.sum(), decay)[0].isfinite().all()


def test_mistakes_are_named():
    q, k, v, phase, _, _ = drawn((), K)[0]
    with pytest.raises(ShapeError, match=r"phased_outer_scan: phase must be floating point \[2, 23, 3\] or"):
        phased_outer_scan(q, k, v, phase[:, 1:])
    with pytest.raises(ShapeError, match=r"signed_outer_scan: decay must be floating point \[2, 23, 3\] or"):
        signed_outer_scan(q, k, v, phase[..., None])
