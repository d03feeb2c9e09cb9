"""The elementwise linear recurrence: its methods, the ops that contain it, delicate decays, and mistakes."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from conftest import need
from matrixstate.errors import BackendUnavailable, ShapeError
from matrixstate.ops import linear_scan, matrix_scan, outer_scan
from matrixstate.ops.matrix.schedules import SCHEDULES

F64 = torch.float64
PARALLEL = [method for method in SCHEDULES if method != "sequential"]
BACKENDS = ["reference", "chunked", "cpu"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)
B, T, H, N = 2, 23, 3, 4


def normal(*shape, dtype=F64):
    return torch.randn(*shape, dtype=dtype)


def signed(*shape):
    return 2 * torch.rand(*shape, dtype=F64) - 1


def phases(*shape):
    return torch.polar(torch.rand(*shape, dtype=F64), 7 * torch.rand(*shape, dtype=F64))


DECAYS = {
    "step": lambda T: {"decay": signed(B, T, H, N)},
    "shared": lambda T: {"decay": signed(B, T, H, 1)},
    "shared among heads": lambda T: {"decay": signed(B, T, 1, N)},
    "constant": lambda T: {"decay": signed(H, N)},
    "constant, one": lambda T: {"log_decay": -signed(1, 1).abs()},
    "log": lambda T: {"log_decay": -3 * signed(B, T, H, N).abs()},
    "complex": lambda T: {"decay": phases(B, T, H, N)},
    "complex constant": lambda T: {"decay": phases(H, 1)},
    "real beside complex": lambda T: {"decay": signed(B, T, 1, N)},
}


def drawn(kind, T):
    decay = DECAYS[kind](T)
    dtype = torch.complex128 if "complex" in kind else F64
    return normal(B, T, H, N, dtype=dtype), decay, normal(B, H, N, dtype=dtype)


def results(x, decay, state, **options):
    """h, the last state and all gradients."""
    leaves = [t.clone().requires_grad_() for t in (x, *decay.values(), state)]
    given = dict(zip(decay, leaves[1:], strict=False))
    h, last = linear_scan(leaves[0], **given, state=leaves[-1], **options)
    torch.manual_seed(1)
    wide = torch.complex128 if h.is_complex() else F64
    gradients = torch.autograd.grad([h, last], leaves, [normal(*out.shape, dtype=wide).to(out) for out in (h, last)])
    return dict(zip(("h", "state", "dx", "ddecay", "dstate"), (h, last, *gradients), strict=True))


def assert_same(got, expected):
    for name, value in expected.items():
        assert_equal_to_rounding(torch.view_as_real(got[name] + 0j), torch.view_as_real(value + 0j), name)


@pytest.mark.parametrize("length", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("kind", DECAYS)
@pytest.mark.parametrize("method", PARALLEL)
def test_all_methods_agree_with_the_definition(method, kind, length):
    inputs, reset = drawn(kind, length), torch.rand(B, length) < 0.2
    for cut in (None, reset):
        expected = results(*inputs, reset=cut, backend="reference")
        assert_same(results(*inputs, reset=cut, method=method, backend="reference"), expected)


@every_backend
@pytest.mark.parametrize("kind", DECAYS)
def test_every_backend_takes_every_decay(backend, kind):
    need("linear_scan", backend)
    x, decay, state = drawn(kind, T)
    narrow = [t.to(torch.complex64 if t.is_complex() else torch.float32) for t in (x, *decay.values(), state)]
    got = results(narrow[0], dict(zip(decay, narrow[1:], strict=False)), narrow[2], backend=backend)
    expected = results(x, decay, state, backend="reference")
    assert_same(got, {name: value.to(got[name].dtype) for name, value in expected.items()})


@pytest.mark.parametrize("length", [1, 2, 7, 33])
@pytest.mark.parametrize("kind", [kind for kind in DECAYS if "constant" in kind])
def test_the_convolution_is_the_recurrence(kind, length):
    inputs = drawn(kind, length)
    assert_same(results(*inputs, method="fft"), results(*inputs, backend="reference"))


@pytest.mark.parametrize("method", PARALLEL)
@pytest.mark.parametrize("kind", ["step", "constant", "complex"])
def test_methods_have_second_derivatives(method, kind):
    x, decay, state = drawn(kind, 4)
    leaves = [t.requires_grad_() for t in (x[:, :, :2, :1], *decay.values(), state[:, :2, :1])]
    reset = torch.tensor([[False, False, True, False]] * B)

    def function(x, decay, state):
        decay = decay[..., :2, :1]
        return linear_scan(x, decay=decay, state=state, reset=reset, method=method, backend="reference")

    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("method", PARALLEL)
def test_backward_keeps_the_decays_and_h_only(method):
    x, a = torch.randn(2, 64, 3, 4, requires_grad=True), torch.rand(2, 64, 3, 4, requires_grad=True)
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage().data_ptr(), t), lambda t: t
    ):
        linear_scan(x, decay=a, method=method, backend="reference")
    assert sum(t.numel() for t in kept.values()) <= 2 * x.numel() + x[:, 0].numel()


@every_backend
def test_it_is_outer_scan_of_one_row_and_matrix_scan_of_order_one(backend):
    need("linear_scan", backend)
    dtype = torch.float32 if backend == "cpu" else F64
    x, g, state = (t.to(dtype) for t in (normal(B, T, H, N), -signed(B, T, H, N).abs(), normal(B, H, N)))
    reset = torch.rand(B, T) < 0.1
    h, last = linear_scan(x, log_decay=g, state=state, reset=reset, backend=backend)
    ones = torch.ones(B, T, H, 1, dtype=dtype)
    options = {"log_decay_v": g, "state": state[:, :, None], "reset": reset, "backend": "reference"}
    y, row = outer_scan(ones, ones, x, **options)
    assert_equal_to_rounding(h, y, "outer")
    assert_equal_to_rounding(last, row[:, :, 0], "state of outer")
    x, a = x.flatten(2)[..., None, None], g.exp().flatten(2)[..., None, None]
    m, _ = matrix_scan(a, x, state.flatten(1)[..., None, None], reset=reset, backend="reference")
    assert_equal_to_rounding(h.flatten(2), m[..., 0, 0], "matrix")


@every_backend
def test_decays_of_one_minus_one_and_zero_are_exact(backend):
    need("linear_scan", backend)
    x, state = torch.randint(-4, 5, (B, 50, 3)).float(), torch.tensor([[3.0, -2.0, 7.0]] * B)
    h, _ = linear_scan(x, decay=torch.tensor([1.0, -1.0, 0.0]), state=state, backend=backend)
    signs = (-1.0) ** torch.arange(50)[:, None]
    assert torch.equal(h[..., 0], state[:, :1] + x[..., 0].cumsum(1))
    assert torch.equal(h[..., 1:2], signs * ((signs * x[..., 1:2]).cumsum(1) - state[:, None, 1:2]))
    assert torch.equal(h[..., 2], x[..., 2])
    g = torch.tensor([0.0, -float("inf")]).expand(B, 50, 2).clone().requires_grad_()
    h, _ = linear_scan(x[..., :2], log_decay=g, state=state[:, :2], backend=backend)
    assert torch.equal(h, torch.stack([state[:, :1] + x[..., 0].cumsum(1), x[..., 1]], dim=2))
    (dg,) = torch.autograd.grad(h.sum(), g)
    assert dg.isfinite().all()
    assert not dg[..., 1].any()


@pytest.mark.parametrize("backend", ["reference", "cpu"])  # the chunked form multiplies it by zero, as its module says
def test_a_reset_clears_what_is_not_finite(backend):
    need("linear_scan", backend)
    x = torch.ones(1, 8, 2)
    x[0, 3, 0] = float("inf")
    reset = torch.zeros(1, 8, dtype=torch.bool)
    reset[0, 5] = True
    h, last = linear_scan(x, decay=torch.full((1, 8, 2), 0.5), reset=reset, backend=backend)
    assert torch.equal(h[0, 5:, 0], h[0, 5:, 1])
    assert last.isfinite().all()


@every_backend
@pytest.mark.parametrize(
    ("size", "of_decay"),
    [((2, 3, 0, 4), (0, 1)), ((2, 3, 4, 0), (4, 1)), ((0, 3, 4), (4,)), ((2, 3), ()), ((2, 3, 1, 4), (2, 3, 1, 1))],
)
def test_sizes_may_be_zero_and_axes_few(backend, size, of_decay):
    need("linear_scan", backend)
    dtype = torch.float32 if backend == "cpu" else F64
    x, a = torch.randn(size, dtype=dtype).requires_grad_(), torch.rand(of_decay, dtype=dtype).requires_grad_()
    h, last = linear_scan(x, decay=a, backend=backend)
    assert (h.shape, last.shape) == (x.shape, (size[0], *size[2:]))
    dx, da = torch.autograd.grad(h.sum() + last.sum(), [x, a])
    assert (dx.shape, da.shape) == (x.shape, a.shape)
    assert x.numel() or not da.any()


def test_a_method_is_taken_by_the_first_backend_that_has_it():
    x, a = torch.randn(B, T, H, N), torch.rand(H, N)
    for method in (*SCHEDULES, "fft"):
        assert_equal_to_rounding(linear_scan(x, decay=a, method=method)[0], linear_scan(x, decay=a)[0], method)
    with pytest.raises(BackendUnavailable, match="chunked: computes by chunks, which is not method 'fft'"):
        linear_scan(x, decay=a, method="fft", backend="chunked")


X, Z = torch.zeros(B, 5, H, N), torch.zeros(B, 5, H, N, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_scan(X), "one of decay and log_decay must be given, got none"),
        (lambda: linear_scan(X, decay=X, log_decay=X), "one of decay and log_decay must be given, got both"),
        (
            lambda: linear_scan(X[0, :, 0, 0], decay=X),
            r"x must be floating point or complex \[B, T, ...\], got .* \[5\]",
        ),
        (
            lambda: linear_scan(X.int(), decay=X),
            r"x must be floating point or complex .*got torch.int32 \[2, 5, 3, 4\]",
        ),
        (lambda: linear_scan([1.0], decay=X), r"x must be floating point or complex .*got \[1.0\]"),
        (
            lambda: linear_scan(X, decay=X[..., 0]),
            r"decay must be floating point \[3, 4\] or \[2, 5, 3, 4\], with 1 for an axis after B and T where it is "
            r"shared, on cpu, got torch.float32 \[2, 5, 3\] on cpu",
        ),
        (lambda: linear_scan(X, decay=X[:1]), r"decay must be .*got torch.float32 \[1, 5, 3, 4\]"),
        (lambda: linear_scan(X, log_decay=X[0, 0, :2]), r"log_decay must be .*got torch.float32 \[2, 4\]"),
        (lambda: linear_scan(X, decay=Z), "decay must be floating point .*got torch.complex64"),
        (lambda: linear_scan(Z, log_decay=Z), "log_decay must be floating point .*got torch.complex64"),
        (lambda: linear_scan(Z, decay=X.int()), "decay must be floating point or complex .*got torch.int32"),
        (lambda: linear_scan(X, decay=0.5), "decay must be floating point .*got 0.5"),
        (lambda: linear_scan(X, decay=X.to("meta")), "decay must be .* on cpu, got torch.float32 .* on meta"),
        (lambda: linear_scan(Z, decay=Z, state=X[:, 0]), r"state must be torch.complex64 \[2, 3, 4\]"),
        (lambda: linear_scan(X, decay=X, method="ladder"), "method must be one of auto, sequential, .*, fft, got 'lad"),
        (
            lambda: linear_scan(X, decay=X, method="fft"),
            r'decay must be constant, \[3, 4\], with method "fft", got \[2',
        ),
        (
            lambda: linear_scan(X, decay=X[0, 0], method="fft", reset=torch.zeros(B, 5, dtype=torch.bool)),
            r'reset must be None with method "fft", got \[2, 5\]',
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ShapeError, match="^linear_scan: " + message):
        call()
