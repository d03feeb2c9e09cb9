"""dense_lti_scan: many chunks, the convolution that it is, and the diagonal model."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.errors import ShapeError
from matrixstate.ops import dense_lti_scan, long_conv, lti_scan

B, D, N, M, F64 = 2, 3, 4, 2, torch.float64


def drawn(T, shared=""):
    """u, A, b, C and h_0; those named in `shared` for all channels at once."""
    sizes = {name: 1 if name in shared else D for name in "AbC"}
    A = torch.linalg.qr(torch.randn(sizes["A"], N, N, dtype=F64)).Q * 0.98
    b, C = torch.randn(sizes["b"], N, dtype=F64), torch.randn(sizes["C"], M, N, dtype=F64)
    u, state = torch.randn(B, T, D, dtype=F64), torch.randn(B, D, N, dtype=F64)
    return [a.requires_grad_() for a in (u, A, b, C, state)]


@pytest.mark.parametrize("packed", [False, True], ids=["whole", "packed"])
@pytest.mark.parametrize("shared", ["", "A", "AbC", "bC"])
@pytest.mark.parametrize("T", [1, 5, 64, 150])
def test_many_chunks_are_one_sequence(T, shared, packed):
    leaves, found, reset = drawn(T, shared), [], torch.rand(B, T) < 0.03 if packed else None
    for backend in ("chunked", "reference"):
        y, last = dense_lti_scan(*leaves[:4], state=leaves[4], reset=reset, backend=backend)
        loss = (y * torch.linspace(0.5, 1.5, y.numel()).double().view_as(y)).sum() + last.square().sum()
        found.append([y, last, *torch.autograd.grad(loss, leaves)])
    for name, got, expected in zip(("y", "state", "du", "dA", "db", "dC", "dstate"), *found, strict=True):
        assert_equal_to_rounding(got, expected, name)


def test_it_is_a_convolution_with_the_impulse_response():
    u, A, b, C, _ = drawn(90)
    kernel = torch.stack([(C @ torch.linalg.matrix_power(A, lag) @ b[..., None])[..., 0] for lag in range(90)], dim=-1)
    expected = torch.stack([long_conv(u, kernel[:, m])[0] for m in range(M)], dim=-1)
    assert_equal_to_rounding(dense_lti_scan(u, A, b, C)[0], expected, "y")


def test_pairs_of_conjugate_states_are_the_diagonal_model():
    u, *_ = drawn(70)
    decay = torch.complex(-torch.rand(D, N, dtype=F64), 4 * torch.randn(D, N, dtype=F64))
    weight, a = torch.randn(D, N, dtype=decay.dtype), decay.exp()
    A = torch.cat(
        [
            torch.cat([torch.diag_embed(a.real), torch.diag_embed(-a.imag)], dim=2),
            torch.cat([torch.diag_embed(a.imag), torch.diag_embed(a.real)], dim=2),
        ],
        dim=1,
    )
    b = torch.cat([torch.ones(D, N), torch.zeros(D, N)], dim=1).double()
    C = torch.cat([weight.real, -weight.imag], dim=1)[:, None]
    y, last = dense_lti_scan(u, A, b, C)
    expected, state = lti_scan(u, decay, weight)
    assert_equal_to_rounding(y[..., 0], expected, "y")
    assert_equal_to_rounding(last, torch.cat([state.real, state.imag], dim=-1), "state")


def test_mistakes_are_named():
    u, A, b, C, state = drawn(5)
    with pytest.raises(ShapeError, match=r"dense_lti_scan: write must be torch.float64 \[3, 4\] or \[1, 4\] on cpu"):
        dense_lti_scan(u, A, b[:2], C)
    with pytest.raises(ShapeError, match=r"dense_lti_scan: readout must be torch.float64 \[3, 2, 4\] or \[1, 2, 4\]"):
        dense_lti_scan(u, A, b, C.float())
    with pytest.raises(ShapeError, match=r"dense_lti_scan: state must be torch.float64 \[2, 3, 4\]"):
        dense_lti_scan(u, A, b, C, state=state[..., :3])
