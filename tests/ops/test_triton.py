"""Triton kernels in Triton's interpreter, on the CPU: as near to float64 as plain PyTorch, and taken only when named.

What belongs to one op alone is in test_triton_<op>.py. Memory, instructions and registers on a GPU are in
test_triton_resources.py.
"""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from against_float64 import assert_all_as_good, draw, run, with_halves
from cases import CASES, cell, conv, differentiable, linear, m2rnn, matrix, mru, scaled, snap
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import need
from matrixstate.errors import BackendUnavailable
from matrixstate.ops import OPS, backends, prefer
from matrixstate.ops._dispatch import _choose, choose

KERNELS = [case for case in CASES if case.backend == "triton"]
SHAPES = [
    m2rnn("triton", K=1, V=1, heads=(1, 1, 1, 1, 1), batch=1),
    m2rnn("triton", K=33, V=7, heads=(1, 1, 1, 1, 1), batch=2),
    m2rnn("triton", K=9, V=40, heads=(6, 3, 2, 1, 1), batch=1, grad_clip=0.2),
    cell("triton", "rnn", d=2, heads=2, batch=3),
    cell("triton", "gru, reset after", d=17, heads=1, batch=17, grad_clip=0.2),
    cell("triton", "lstm", d=33, heads=2, batch=1, grad_clip=0.2),
    conv("triton", C=130, K=4, batch=1),
    conv("triton", C=1, K=1, activation="silu", batch=3),
    linear("triton", "step", 3, 43, batch=1),
    linear("triton", "log constant, shared", 5, 3, 9, batch=3),
    matrix("triton", D=17, R=6, v=True, heads=1, batch=1),
    matrix("triton", D=5, R=35, heads=1, batch=1),
    scaled("triton", D=33, heads=1, batch=1),
    snap("triton", D=17, groups=2, codes=1, batch=1),
    snap("triton", D=5, codes=70, heads=3, batch=1),
    mru("triton", D=5, C=3, builder="cayley", decay=True, v=True, heads=1),
    mru("triton", D=2, C=1, readout="normalised", rescale=True, builder="reshape_identity", heads=1, batch=1),
    mru("triton", D=17, C=20, v=True, readout="bounded", heads=1, batch=1),
]
MORE_SHAPES = [
    m2rnn("triton", K=20, V=17, heads=(1, 1, 3, 3, 3), batch=1),
    m2rnn("triton", K=16, V=16, heads=(1, 1, 5, 1, 1), batch=1),
    m2rnn("triton", K=5, V=64, heads=(2, 1, 1, 1, 2), batch=1),
    cell("triton", "rnn", d=64, heads=2, grad_clip=0.2),
    cell("triton", "gru", d=64, heads=1, batch=1),
    cell("triton", "gru", d=20, heads=2, batch=33, grad_clip=0.2),
    cell("triton", "lstm", d=64, heads=1, batch=16),
    cell("triton", "gru", d=130, heads=1, batch=1),
    cell("triton", "lstm", d=65, heads=1, batch=17),
    conv("triton", C=7, K=8, activation="silu", batch=1),
    conv("triton", C=128, K=3, activation="silu"),
    linear("triton", "log step", 129, batch=1),
    linear("triton", "constant", 1, batch=1),
    *(matrix("triton", D, heads=1, batch=1) for D in (1, 2, 8, 15, 16, 32, 33, 64)),
    matrix("triton", D=8, R=18, v=True, heads=3),
    *(scaled("triton", D, heads=1, batch=1) for D in (1, 4, 16, 17, 64)),
    *(snap("triton", D, groups=groups, heads=3) for D, groups in ((2, 3), (4, 3), (16, 1), (33, 3))),
    snap("triton", D=6, groups=2, codes=18, heads=4, batch=3),
    snap("triton", D=12, codes=300, heads=1, batch=1),
    mru("triton", D=1, C=1, heads=2, batch=1),
    mru("triton", D=16, C=16, readout="normalised", rescale=True, heads=1, batch=1),
    mru("triton", D=4, C=65, v=True, decay=True, builder="reshape_identity", heads=2, batch=1),
    mru("triton", D=33, C=2, builder="cayley", readout="bounded", rescale=True, heads=1, batch=1),
]
every_kernel = pytest.mark.parametrize("case", KERNELS, ids=str, indirect=True)
every_shape = pytest.mark.parametrize(
    "case",
    [*SHAPES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE_SHAPES)],
    ids=str,
    indirect=True,
)


@pytest.mark.parametrize("T", [1, 17, *(pytest.param(T, marks=pytest.mark.slow) for T in (2, 15, 16, 31, 33, 50))])
@every_kernel
def test_as_good_as_plain_pytorch_at_every_length(case, T):
    assert_all_as_good(case, draw(case, T))


@every_shape
def test_as_good_as_plain_pytorch_at_every_shape(case):
    assert_all_as_good(case, draw(case, 19))


@every_shape
def test_as_good_as_plain_pytorch_in_bfloat16(case):
    """As that of the native kernels: parameters and gates are float32."""
    drawn = draw(case, 19)
    drawn = ({n: v.bfloat16().double() for n, v in drawn[0].items()}, *drawn[1:])
    assert_all_as_good(case, drawn, halves=dataclasses.replace(case, call=with_halves(case.call)))


@every_kernel
def test_two_runs_give_the_same_bits(case):
    drawn = draw(case, 18)
    first, second = (run(case, drawn, "triton", torch.float32) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


class Record(TorchDispatchMode):
    """The calls of Triton's operators."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.name().startswith("matrixstate::") and func.name().endswith("_triton"):
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@every_kernel
def test_the_operators_keep_the_promises_of_pytorch(case):
    sequence, fixed, state, reset = draw(case, 5, torch.float32)
    differentiable(sequence, fixed, state)
    with Record() as record:
        case.run(sequence, fixed, state, reset)
    assert record.calls
    for operator, arguments in record.calls:
        torch.library.opcheck(operator, tuple(leaves(x) for x in arguments))


def leaves(argument):
    """A tensor, or those of a list, detached; requiring a gradient where they can have one."""
    if isinstance(argument, list):
        return [leaves(x) for x in argument]
    if not isinstance(argument, torch.Tensor):
        return argument
    return argument.detach().requires_grad_(argument.is_floating_point())


@every_kernel
def test_other_dtypes_are_refused_in_words(case):
    for dtype in (torch.float64, torch.float16):
        sequence, fixed, state = case.sequence(3, dtype), case.fixed(dtype), case.state(dtype)
        with pytest.raises(BackendUnavailable, match=f"triton: needs torch.float32 or torch.bfloat16, got {dtype}"):
            case.run(sequence, fixed, state)


@every_kernel
def test_the_interpreter_is_taken_only_by_name(case, monkeypatch):
    without_cpu = tuple(b for b in OPS[case.op] if b.name != "cpu")
    monkeypatch.setitem(OPS, case.op, without_cpu)
    _choose.cache_clear()
    assert choose(case.op, "auto", "cpu", torch.float32) != "triton"
    _choose.cache_clear()
    assert choose(case.op, "triton", "cpu", torch.float32) == "triton"
    with prefer("triton"):
        assert backends("cpu", torch.float32)[case.op] == "triton"


def test_without_the_interpreter_it_is_taken_on_gpus_alone():
    need("m2rnn_scan", "triton")
    code = """
import torch
from matrixstate.ops import m2rnn_scan
from matrixstate.ops._dispatch import choose
print(choose("m2rnn_scan", "auto", "cuda", torch.bfloat16), choose("m2rnn_scan", "auto", "cuda", torch.float64))
x = torch.zeros(1, 1, 1, 1)
m2rnn_scan(x, x, x, x[0], x[0], backend="triton")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"}
    )
    assert done.stdout.split() == ["triton", "reference"]
    assert "triton: needs a GPU (or, to test it, TRITON_INTERPRET=1 in the environment), got cpu" in done.stderr
