"""The compiled module by itself: what it refuses, its tanh, and that nothing imports it before it is needed."""

import subprocess
import sys

import pytest
import torch

from conftest import need
from matrixstate.ops import m2rnn_scan

B, T, H, K, V = 2, 5, 2, 3, 4
ORDER = ("q", "k", "v", "w", "f", "state", "reset", "y", "last", "kept")


@pytest.fixture(scope="module")
def native():
    need("m2rnn_scan", "cpu")
    from matrixstate import _native

    return _native


def arrays():
    sizes = {"q": (B, T, 1, K), "k": (B, T, H, K), "v": (B, T, H, V), "w": (H, V, V), "f": (B, T, H)}
    sizes |= {"state": (B, H, K, V), "y": (B, T, H, V), "last": (B, H, K, V), "kept": (B, H, 1, K, V)}
    return {name: torch.zeros(size) for name, size in sizes.items()} | {"reset": None}


def call(native, given, threads=1):
    native.m2rnn_forward(*(given[name] for name in ORDER), threads)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("q", torch.zeros(B, T, K), r"q must have 4 axes, got \[2, 5, 3\]"),
        ("q", torch.zeros(B, T, 1, K, dtype=torch.float64), "q must be float32 or bfloat16, got another type"),
        ("k", torch.zeros(B, T, H, K + 1), r"k must be float32 \[2, 5, 2, 3\], got float32 \[2, 5, 2, 4\]"),
        ("v", torch.zeros(B, T, H, V).bfloat16(), r"v must be float32 \[2, 5, 2, 4\], got bfloat16"),
        ("v", torch.zeros(B, H, T, V).transpose(1, 2), "v must be contiguous"),
        ("w", torch.zeros(3, V, V), "every head count must divide the largest"),
        ("f", torch.zeros(B, T + 1, H), r"f must be float32 \[2, 5, 2\]"),
        ("state", torch.zeros(B, H, V, K), r"state must be float32 \[2, 2, 3, 4\]"),
        ("reset", torch.zeros(B, T, dtype=torch.uint8), r"reset must be bool \[2, 5\]"),
        ("y", torch.zeros(B, T, H, V + 1), r"y must be float32 \[2, 5, 2, 4\]"),
        ("kept", torch.zeros(B, H, 2, K, V), r"kept must be float32 \[2, 2, 1, 3, 4\]"),
    ],
)
def test_a_wrong_array_is_refused_before_it_is_read(native, name, value, message):
    with pytest.raises(ValueError, match=f"m2rnn_forward: {message}"):
        call(native, arrays() | {name: value})


def test_right_arrays_are_taken_and_threads_must_be_positive(native):
    call(native, arrays())
    with pytest.raises(ValueError, match="threads must be positive"):
        call(native, arrays(), threads=0)


def test_what_is_no_array_is_refused(native):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(native, arrays() | {"q": [1.0]})


@pytest.mark.parametrize("wrap", [torch.Tensor.numpy, torch.nn.Parameter, torch.from_dlpack])
def test_arrays_are_taken_whoever_made_them(native, wrap):
    """NumPy's have no exchange table: those take the slow way in."""
    plain = {name: None if value is None else torch.rand_like(value) for name, value in arrays().items()}
    call(native, plain)
    other = {name: None if value is None else wrap(value.clone()) for name, value in plain.items()}
    call(native, other)
    assert all(torch.equal(torch.as_tensor(other[name]), plain[name]) for name in ("y", "last", "kept"))
    with pytest.raises(ValueError, match="m2rnn_forward: v must be contiguous"):
        call(native, other | {"v": wrap(torch.zeros(B, H, T, V).transpose(1, 2))})


def test_what_has_no_memory_is_refused(native):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(native, arrays() | {"q": torch.zeros(B, T, 1, K, device="meta")})
    with pytest.raises(ValueError, match="m2rnn_forward: q must have memory of its own"):
        call(native, arrays() | {"q": torch._to_functional_tensor(torch.zeros(B, T, 1, K))})


def _tanh(x):
    """The kernel's tanh: a step that keeps nothing of the state, of one row and one column."""
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1)
    one, zero = one.expand(1, len(x), 1, 1), zero.expand(1, len(x), 1)
    y, _ = m2rnn_scan(one, one, x.reshape(1, -1, 1, 1), torch.zeros(1, 1, 1), zero, backend="cpu")
    return y.flatten()


def test_tanh_is_right_to_4e_7_everywhere(native):
    x = torch.cat([torch.linspace(-12, 12, 400_001), torch.logspace(-30, 1, 20_001), torch.tensor([1e30, -9e37])])
    x = x[x != 0]
    exact = torch.tanh(x.double())
    for name in native.instruction_sets():
        native.use_instruction_set(name)
        got = _tanh(x)
        assert ((got.double() - exact) / exact).abs().max() < 4e-7, name
        assert torch.equal(_tanh(torch.zeros(1)), torch.zeros(1))
        assert _tanh(torch.tensor([float("nan")])).isnan().all()


def test_a_nan_is_not_hidden_by_the_clamped_gradient(native):
    inputs = [torch.ones(1, 3, 1, n, requires_grad=True) for n in (2, 2, 3)]
    w, f = torch.eye(3)[None].requires_grad_(), torch.full((1, 3, 1), 0.5, requires_grad=True)
    y, _ = m2rnn_scan(*inputs, w, f, grad_clip=0.1, backend="cpu")
    weights = torch.ones_like(y)
    weights[:, 2] = float("nan")
    assert all(g.isnan().any() for g in torch.autograd.grad(y, [*inputs, w, f], weights))


def test_nothing_imports_the_compiled_module_before_it_is_needed():
    code = "import sys, matrixstate.layers, matrixstate.models; assert 'matrixstate._native' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_calling_a_kernel_does_not_import_the_compiler(native):
    code = """
import sys, torch
from matrixstate.ops import causal_conv
x = torch.ones(1, 2, 3, requires_grad=True)
causal_conv(x, torch.ones(3, 2), backend="cpu")[0].sum().backward()
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
