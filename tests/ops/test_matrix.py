"""The matrix scans: schedules, the saved backward pass, and products that outgrow float32."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from closeness import assert_as_good_as, assert_equal_to_rounding
from conftest import need
from matrixstate.errors import BackendUnavailable, ShapeError
from matrixstate.ops import ScaledState, matrix_scan, scaled_matrix_scan
from matrixstate.ops.matrix import definition
from matrixstate.ops.matrix.schedules import SCHEDULES

F64 = torch.float64
LENGTHS = [1, 2, 3, 5, 8, 13, 16, 17, 31, 64, 65]
methods = pytest.mark.parametrize("method", SCHEDULES)


def near_identity(*shape, scale=0.2):
    return torch.eye(shape[-1], dtype=F64) + scale * torch.randn(*shape, dtype=F64)


@methods
@pytest.mark.parametrize("length", LENGTHS)
def test_every_schedule_gives_all_prefixes_in_order(method, length):
    words = torch.arange(length).view(1, -1, 1)
    calls = []

    def join(left, right):  # [a, b) joined with [b, c); anything else is a wrong product
        assert torch.equal(left[1], right[0])
        calls.append(left[0].shape[1])
        return left[0].clone(), right[1].clone()

    elements = words.clone(), words + 1
    first, end = SCHEDULES[method](join, elements)
    assert torch.equal(first, torch.zeros_like(first))
    assert torch.equal(end, words + 1)
    assert torch.equal(elements[0], words)


def promised(method, length):
    """Most calls that may wait for one another, and most pairs that may be combined."""
    log = math.ceil(math.log2(length)) if length > 1 else 0
    root = math.isqrt(length)
    return {
        "sequential": (length - 1, length - 1),
        "hillis_steele": (log, length * log),
        "sklansky": (log, (length + 1) // 2 * log),
        "brent_kung": (max(2 * log - 1, 0), 2 * length),
        "chunked": (root - 1 + math.ceil(length / root) - 1 + 1, 2 * length),
    }[method]


@methods
@pytest.mark.parametrize("length", LENGTHS)
def test_depth_and_work_are_those_that_the_names_promise(method, length):
    pairs = []

    def combine(left, right):
        pairs.append(left[0].shape[1])
        return (left[0] + right[0],)

    SCHEDULES[method](combine, (torch.ones(1, length),))
    depth, work = promised(method, length)
    assert len(pairs) <= depth
    assert sum(pairs) <= work
    if length > 1 and method in ("hillis_steele", "sklansky"):
        assert len(pairs) == depth


@methods
@pytest.mark.parametrize("T", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("R", [None, 2, 5])
def test_all_methods_agree_with_the_definition(method, T, R):
    x, reset = near_identity(2, T, 3, 5, 5), torch.rand(2, T) < 0.2
    v = None if R is None else torch.randn(2, T, 3, R, 5, dtype=F64)
    state = near_identity(2, 3, 5, 5) if R is None else torch.randn(2, 3, R, 5, dtype=F64)
    start = torch.eye(5, dtype=F64).expand_as(state) if R is None else torch.zeros_like(state)
    for cut in (None, reset):
        h, last = matrix_scan(x, v, state, reset=cut, method=method)
        expected = definition.matrix_scan(x, v, state, cut, start)
        assert_equal_to_rounding(h, expected, "h")
        assert_equal_to_rounding(last, expected[:, -1], "state")


@methods
def test_rows_may_be_fewer_or_more_than_the_order(method):
    x, state = near_identity(2, 9, 3, 4, 4), torch.randn(2, 3, 6, 4, dtype=F64)
    h, _ = matrix_scan(x, None, state, method=method)
    assert_equal_to_rounding(h, definition.matrix_scan(x, None, state, None, state), "h")
    with pytest.raises(ShapeError, match=r"reset without v needs a state of R = D = 4 rows, got R = 6"):
        matrix_scan(x, None, state, reset=torch.zeros(2, 9, dtype=torch.bool))


@methods
@pytest.mark.parametrize("affine", [False, True])
def test_the_reversed_scan_is_the_gradient(method, affine):
    x, reset = near_identity(2, 11, 3, 4, 4), torch.rand(2, 11) < 0.2
    v = torch.randn(2, 11, 3, 5, 4, dtype=F64) if affine else None
    state = torch.randn(2, 3, 5 if affine else 4, 4, dtype=F64)
    start = torch.zeros_like(state) if affine else torch.eye(4, dtype=F64).expand_as(state)
    leaves = [t.requires_grad_() for t in (x, v, state) if t is not None]
    incoming = torch.randn(2, 11, 3, state.shape[2], 4, dtype=F64)
    h, _ = matrix_scan(x, v, state, reset=reset, method=method)
    got = torch.autograd.grad(h, leaves, incoming)
    expected = torch.autograd.grad(definition.matrix_scan(x, v, state, reset, start), leaves, incoming)
    for one, other in zip(got, expected, strict=True):
        assert_equal_to_rounding(one, other, "gradient")


@methods
def test_backward_keeps_the_inputs_and_the_states_only(method):
    x = near_identity(2, 32, 3, 4, 4).float().requires_grad_()
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        matrix_scan(x, method=method)
    assert sum(t.numel() for t in kept.values()) <= 2 * x.numel() + x[:, 0].numel()


def test_determinants_multiply():
    x = near_identity(2, 20, 3, 4, 4)
    _, last = matrix_scan(x)
    torch.testing.assert_close(torch.linalg.det(last), torch.linalg.det(x).prod(dim=1))


@pytest.mark.parametrize("backend", ["cpu", "triton", "reference"])
@pytest.mark.parametrize("D", [1, 4, 5, 8, 16, 17, 33, 64])
def test_an_identity_step_changes_nothing_at_all(D, backend):
    need("matrix_scan", backend)
    x, state = torch.eye(D).expand(2, 3, 4, D, D), torch.randn(2, 4, D, D)
    for v in (None, torch.zeros(2, 3, 4, D, D)):
        h, last = matrix_scan(x, v, state, backend=backend)
        assert torch.equal(last, state)
        assert torch.equal(h[:, 1], state)
    before = ScaledState(*scaled_matrix_scan(torch.randn(2, 1, 4, D, D))[2])
    after = scaled_matrix_scan(x, before, backend=backend)[2]
    assert torch.equal(after.matrix, before.matrix)
    assert torch.equal(after.exponent, before.exponent)


def test_a_method_that_the_kernel_has_not_runs_on_the_reference_or_is_refused():
    need("matrix_scan", "cpu")
    x = near_identity(2, 9, 3, 4, 4).float()
    for op in (matrix_scan, scaled_matrix_scan):
        for method in ("auto", "sequential"):
            assert torch.equal(op(x, method=method)[0], op(x, backend="cpu")[0])
        for method in ("brent_kung", "chunked"):
            assert torch.equal(op(x, method=method)[0], op(x, method=method, backend="reference")[0])
            with pytest.raises(BackendUnavailable, match=f"cpu: .*which is not method '{method}'"):
                op(x, method=method, backend="cpu")


@pytest.mark.parametrize("D", [4, 8, 16, 24])
def test_large_arrays_which_the_kernel_streams_are_as_exact_as_small_ones(D):
    """Past a size the kernel writes around the caches; a part of such an array must come out the same by itself."""
    need("matrix_scan", "cpu")
    x = torch.linalg.qr(torch.randn(1, 3 * 2**20 // (2 * D * D), 2, D, D)).Q.contiguous().requires_grad_()
    incoming = torch.randn(x.shape)
    h, _ = matrix_scan(x, backend="cpu")
    (whole,) = torch.autograd.grad(h, x, incoming)
    tail = slice(-40, None)
    again, _ = matrix_scan(x[:, tail], None, h[:, -41].detach(), backend="cpu")
    (part,) = torch.autograd.grad(again, x, incoming[:, tail])
    assert torch.equal(again, h[:, tail])
    assert torch.equal(part[:, tail], whole[:, tail])


@methods
def test_the_scaled_scan_is_the_product_split_in_two(method):
    x, reset = near_identity(2, 19, 3, 4, 4), torch.rand(2, 19) < 0.15
    h, log_scale, state = scaled_matrix_scan(x, reset=reset, method=method)
    whole, last = matrix_scan(x, reset=reset)
    assert_equal_to_rounding(h * log_scale.exp()[..., None, None], whole, "h e^s")
    assert_equal_to_rounding(state.matrix * torch.exp2(state.exponent.double())[..., None, None], last, "state")
    torch.testing.assert_close(torch.linalg.matrix_norm(h), torch.full_like(log_scale, 2.0))
    expected = definition.scaled_matrix_scan(
        x, torch.eye(4).expand(2, 3, 4, 4).double(), torch.zeros(2, 3).double(), reset
    )
    for got, other in zip((h, log_scale), expected, strict=True):
        assert_equal_to_rounding(got, other, "split")


@pytest.mark.slow
def test_65536_random_steps_of_order_16_do_not_overflow():
    x = 0.3 * torch.randn(1, 65_536, 2, 16, 16)
    exact_h, exact_scale, _ = scaled_matrix_scan(x.double(), method="chunked")
    assert exact_scale[:, -1].min() > 1000  # e^1000 is far beyond float64 too
    assert not matrix_scan(x[:, :2000])[0].isfinite().all()
    plain_h, plain_scale = definition.scaled_matrix_scan(x, torch.eye(16).expand(1, 2, 16, 16), torch.zeros(1, 2), None)
    for method in ("sequential", "chunked"):
        h, log_scale, state = scaled_matrix_scan(x, method=method)
        assert state.matrix.abs().amax() < 1
        assert_as_good_as(h, plain_h, exact_h, f"h, {method}", typical=True)
        assert_as_good_as(log_scale, plain_scale, exact_scale, f"log_scale, {method}", typical=True)


def test_the_scaled_scan_has_gradients_where_the_product_overflows():
    x = (3 * torch.eye(3) + 0.3 * torch.randn(1, 300, 2, 3, 3)).requires_grad_()
    h, log_scale, _ = scaled_matrix_scan(x)
    assert not matrix_scan(x)[0].isfinite().all()
    (gradient,) = torch.autograd.grad(h[:, -1].sum() + log_scale[:, -1].sum(), x)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_a_product_of_zero_has_a_finite_scale_and_gradient():
    x = torch.zeros(1, 3, 1, 2, 2, requires_grad=True)
    h, log_scale, _ = scaled_matrix_scan(x)
    (gradient,) = torch.autograd.grad(h.sum() + log_scale.sum(), x)
    assert not h.any()
    assert log_scale.isfinite().all()
    assert gradient.isfinite().all()


@settings(max_examples=20, deadline=None)
@given(B=st.integers(1, 3), T=st.integers(1, 6), H=st.integers(1, 3), D=st.integers(1, 4))
def test_any_size_works(B, T, H, D):
    x = near_identity(B, T, H, D, D)
    h, last = matrix_scan(x, method="brent_kung")
    assert h.shape == (B, T, H, D, D)
    assert_equal_to_rounding(last, matrix_scan(x, method="sequential")[1], "state")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 3, 4, 5), r"x must be floating point \[B, T, H, D, D\], got torch.float32 \[2, 3, 4, 5\]"),
        (torch.ones(2, 3, 1, 4, 5), r"x must be \[B, T, H, D, D\] with D >= 1, got \[2, 3, 1, 4, 5\]"),
        (torch.ones(2, 3, 1, 4, 4, dtype=torch.int64), "x must be floating point .* got torch.int64"),
        (torch.ones(2, 3, 1, 0, 0), r"with D >= 1, got \[2, 3, 1, 0, 0\]"),
    ],
)
def test_wrong_inputs_are_refused_with_their_sizes(x, message):
    for op in (matrix_scan, scaled_matrix_scan):
        with pytest.raises(ShapeError, match=message):
            op(x)


def test_an_unknown_method_and_a_foreign_v_are_refused():
    x = torch.ones(2, 3, 1, 4, 4)
    with pytest.raises(ShapeError, match=r"method must be one of auto, sequential, .*got 'fast'"):
        matrix_scan(x, method="fast")
    with pytest.raises(ShapeError, match=r"v must be torch.float32 \[2, 3, 1, 6, 4\] on cpu, got torch.float64"):
        matrix_scan(x, torch.ones(2, 3, 1, 6, 4, dtype=F64))
    with pytest.raises(ShapeError, match="state must be a ScaledState, got Tensor"):
        scaled_matrix_scan(x, torch.eye(4).expand(2, 1, 4, 4))


@methods
def test_a_scaled_state_after_a_reset_has_the_same_scale_by_every_method(method):
    x = 8 * torch.eye(3) + torch.randn(2, 7, 2, 3, 3)
    reset = torch.zeros(2, 7, dtype=torch.bool)
    reset[:, [3, 6]] = True
    found = [scaled_matrix_scan(x, reset=reset, method=m, backend="reference")[-1] for m in ("sequential", method)]
    assert torch.equal(found[0].exponent, found[1].exponent)
    torch.testing.assert_close(found[0].matrix, found[1].matrix)
