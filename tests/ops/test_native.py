"""The compiled module by itself: what it refuses, its tanh, and that nothing imports it before it is needed."""

import os
import subprocess
import sys

import pytest
import torch

from conftest import need
from matrixstate.ops import m2rnn_scan

B, T, H, K, V = 2, 5, 2, 3, 4
ORDER = ("q", "k", "v", "w", "f", "state", "reset", "y", "last", "saved")


@pytest.fixture
def native():
    need("m2rnn_scan", "cpu")
    from matrixstate import _native

    chosen = _native.instruction_set()
    yield _native
    _native.use_instruction_set(chosen)  # tests of the same process may compare bits with another one's


def arrays():
    sizes = {"q": (B, T, 1, K), "k": (B, T, H, K), "v": (B, T, H, V), "w": (H, V, V), "f": (B, T, H)}
    sizes |= {"state": (B, H, K, V), "y": (B, T, H, V), "last": (B, H, K, V), "saved": (B, H, 1, K, V)}
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
        ("saved", torch.zeros(B, H, 2, K, V), r"saved must be float32 \[2, 2, 1, 3, 4\]"),
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
    assert all(torch.equal(torch.as_tensor(other[name]), plain[name]) for name in ("y", "last", "saved"))
    with pytest.raises(ValueError, match="m2rnn_forward: v must be contiguous"):
        call(native, other | {"v": wrap(torch.zeros(B, H, T, V).transpose(1, 2))})


def test_what_has_no_memory_is_refused(native):
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call(native, arrays() | {"q": torch.zeros(B, T, 1, K, device="meta")})
    with pytest.raises(ValueError, match="m2rnn_forward: q must have memory of its own"):
        call(native, arrays() | {"q": torch._to_functional_tensor(torch.zeros(B, T, 1, K))})


CELL_ORDER = ("x", "w", "vectors", "h", "rest", "mask", "reset", "y", "last_h", "last_rest", "saved", "rests")


def lstm_arrays():
    sizes = {"h": (B, H, V), "rest": (1, B, H, V), "y": (B, T, H, V), "last_h": (B, H, V)}
    sizes |= {"last_rest": (1, B, H, V), "saved": (T, 5, B, H, V), "rests": (T, 1, B, H, V)}
    made = {name: torch.zeros(size) for name, size in sizes.items()} | {"vectors": None, "mask": None, "reset": None}
    return made | {"x": [torch.zeros(B, T, H, V)] * 4, "w": [torch.zeros(H, V, V)] * 4}


def call_cell(native, given, kind=3, threads=1):
    native.cell_forward(kind, *(given[name] for name in CELL_ORDER), threads)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", [torch.zeros(B, T, H, V)] * 3, "each gate has one x"),
        ("x", [torch.zeros(B, T, H, V).bfloat16()] * 4, r"x must be float32 \[2, 5, 2, 4\], got bfloat16"),
        ("x", [torch.zeros(B, T, 1, V)] * 4, r"x must be float32 \[2, 5, 2, 4\], got float32 \[2, 5, 1, 4\]"),
        ("x", [torch.zeros(B, T, V, H).mT] * 4, "x must be dense in its last axis"),
        ("w", [torch.zeros(H, V, V + 1)] * 4, r"w must be float32 \[2, 4, 4\]"),
        ("w", [torch.zeros(H, V, V)] * 3, "each gate has one w"),
        ("vectors", torch.zeros(1, H, V), "vectors must be given for cells with some and for no others"),
        ("rest", None, "arrays of rest must be given for cells with a state beside h and for no others"),
        ("rest", torch.zeros(2, B, H, V), r"rest must be float32 \[1, 2, 2, 4\]"),
        ("rests", None, "arrays of rest must be given for cells with a state beside h and for no others"),
        ("mask", torch.zeros(B, T + 1, dtype=torch.bool), r"mask must be bool \[2, 5\]"),
        ("y", torch.zeros(B, 0, H, V), "there must be a step"),
        ("y", torch.zeros(B, H, T, V).transpose(1, 2), "y must be contiguous"),
        ("saved", torch.zeros(T, 4, B, H, V), r"saved must be float32 \[5, 5, 2, 2, 4\]"),
        ("saved", torch.zeros(1, 5, B, H, V), r"rests must be float32 \[1, 1, 2, 2, 4\]"),
    ],
)
def test_a_wrong_array_of_a_cell_is_refused_before_it_is_read(native, name, value, message):
    with pytest.raises(ValueError, match=f"cell_forward: {message}"):
        call_cell(native, lstm_arrays() | {name: value})


def test_right_arrays_of_a_cell_are_taken_and_others_are_not(native):
    call_cell(native, lstm_arrays())
    for kind, threads, message in (
        (17, 1, "kind must be"),
        (-1, 1, "kind must be"),
        (3, 0, "threads must be positive"),
    ):
        with pytest.raises(ValueError, match=message):
            call_cell(native, lstm_arrays(), kind, threads)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call_cell(native, lstm_arrays() | {"x": torch.zeros(4, B, T, H, V).tolist()})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dx", [torch.zeros(B, T, H, V)] * 5, "each gate has one x and one dx"),
        ("dx", [torch.zeros(B, T, H, V + 1)] * 4, r"dx must be float32 \[2, 5, 2, 4\]"),
        ("saved", torch.zeros(1, 5, B, H, V), r"saved must be float32 \[5, 5, 2, 2, 4\]"),
        ("drest", None, "arrays of rest must be given for cells with a state beside h and for no others"),
        ("dvectors", torch.zeros(1, H, V), "dvectors must be given where vectors are"),
        ("inner", torch.zeros(B, T, H, V), "operand and inner must be given for cells that return them"),
        ("dy", torch.zeros(B, T, H), r"dy must be float32 \[2, 5, 2, 4\]"),
    ],
)
def test_a_wrong_array_of_a_cells_backward_is_refused_before_it_is_read(native, name, value, message):
    made = lstm_arrays() | {n: torch.zeros(B, H, V) for n in ("dlast_h", "dh")}
    made |= {n: torch.zeros(1, B, H, V) for n in ("dlast_rest", "drest")}
    made |= {"dvectors": None, "operand": None, "inner": None}
    made |= {"dy": torch.zeros(B, T, H, V), "dx": [torch.zeros(B, T, H, V) for _ in range(4)], "clip": 0.0}
    order = ("w", "vectors", "h", "mask", "reset", "clip", "y", "saved", "rests", "dy", "dlast_h", "dlast_rest", "dx")
    order += ("dh", "drest", "dvectors", "operand", "inner")
    native.cell_backward(3, *(made[n] for n in order), 1)
    with pytest.raises(ValueError, match=f"cell_backward: {message}"):
        native.cell_backward(3, *((made | {name: value})[n] for n in order), 1)


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


def test_the_best_instruction_set_is_chosen_unless_the_environment_names_another(native):
    def chosen(**environment):
        code = "from matrixstate import _native; print(_native.instruction_set())"
        others = {name: value for name, value in os.environ.items() if name != "MATRIXSTATE_INSTRUCTION_SET"}
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=others | environment
        )

    assert chosen().stdout.strip() == native.instruction_sets()[-1]
    assert chosen(MATRIXSTATE_INSTRUCTION_SET="baseline").stdout.strip() == "baseline"
    assert "instruction set: this processor cannot run mmx" in chosen(MATRIXSTATE_INSTRUCTION_SET="mmx").stderr


def test_nothing_imports_the_compiled_module_before_it_is_needed():
    code = "import sys, matrixstate.mixers, matrixstate.models; assert 'matrixstate._native' not in sys.modules"
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
