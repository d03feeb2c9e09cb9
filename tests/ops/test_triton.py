"""Triton kernels in Triton's interpreter, on the CPU: as near to float64 as plain PyTorch, and taken only when named.

Their memory, instructions and registers on a GPU are in test_triton_resources.py.
"""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch
from against_float64 import assert_all_as_good, draw, run, with_halves
from cases import Case, differentiable, m2rnn

from closeness import assert_as_good_as
from conftest import need
from matrixstate.errors import BackendUnavailable
from matrixstate.ops import OPS, backends, m2rnn_scan, prefer
from matrixstate.ops._dispatch import choose


@pytest.fixture(autouse=True)
def _triton_is_needed():
    need("m2rnn_scan", "triton")


BASIC = m2rnn("triton", K=4, heads=(1, 3, 1, 1, 3), grad_clip=0.2)
SHAPES = [
    m2rnn("triton", K=1, V=1, heads=(1, 1, 1, 1, 1), batch=1),
    m2rnn("triton", K=33, V=7, heads=(1, 1, 1, 1, 1), batch=2),
    m2rnn("triton", K=20, V=17, heads=(1, 1, 3, 3, 3), batch=1),
    m2rnn("triton", K=16, V=16, heads=(1, 1, 5, 1, 1), batch=1),
    m2rnn("triton", K=9, V=40, heads=(6, 3, 2, 1, 1), batch=1, grad_clip=0.2),
    m2rnn("triton", K=5, V=64, heads=(2, 1, 1, 1, 2), batch=1),
]
every_shape = pytest.mark.parametrize("case", SHAPES, ids=str, indirect=True)
basic = pytest.mark.parametrize("case", [BASIC], ids=str, indirect=True)


@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 33])
@basic
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


def rounding_operands(case: Case) -> Case:
    """The case in plain PyTorch with every operand of a matrix product, forward and backward, rounded to bfloat16."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h, w):
            ctx.save_for_backward(h, w)
            return half(h) @ half(w)

        @staticmethod
        def backward(ctx, dz):
            h, w = ctx.saved_tensors
            return half(dz) @ half(w).mT, (half(h).mT @ half(dz)).sum(0)

    def half(x):
        return x.bfloat16().to(x)

    def call(s, fixed, state, *, reset, backend):
        q, k, v, f = (s[n].float().movedim(1, 0) for n in "qkvf")
        h, out = state, []
        for t in range(len(q)):
            h = torch.where(reset[:, t, None, None, None], 0, h)
            a = torch.tanh(Product.apply(h, fixed["w"].float()) + k[t][..., None] * v[t][..., None, :])
            h = f[t][..., None, None] * h + (1 - f[t][..., None, None]) * a
            out.append((q[t][..., None, :] @ h).squeeze(-2))
        return torch.stack(out, dim=1).to(s["q"].dtype), h

    return dataclasses.replace(case, call=call)


def test_a_model_in_bfloat16_is_as_good_as_plain_pytorch_that_rounds_the_same_operands():
    case = m2rnn("triton", K=18, V=20, heads=(3, 3, 3, 3, 3), batch=2)
    drawn = draw(case, 19, torch.bfloat16)
    state = drawn[2].double()
    drawn = (*({n: x.double() for n, x in part.items()} for part in drawn[:2]), state, drawn[3])
    wide = {"f"}

    def in_bfloat16(call):
        def rounded(sequence, fixed, state, **options):
            sequence = {n: x if n in wide else x.bfloat16() for n, x in sequence.items()}
            return call(sequence, {n: x.bfloat16() for n, x in fixed.items()}, state, **options)

        return rounded

    exact = run(case, drawn, "reference", torch.float64)
    ours, theirs = case, rounding_operands(case)
    got, plain = (
        run(dataclasses.replace(c, call=in_bfloat16(c.call)), drawn, "triton", torch.float32) for c in (ours, theirs)
    )
    for name, value in got.items():
        assert_as_good_as(value, plain[name], exact[name], name)


def test_two_runs_give_the_same_bits():
    drawn = draw(BASIC, 18)
    first, second = (run(BASIC, drawn, "triton", torch.float32) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_where_f_is_1_the_step_is_the_identity_bit_for_bit():
    sequence, fixed, state, _ = draw(BASIC, 17, torch.float32)
    sequence["f"] = torch.ones_like(sequence["f"])
    (carried,) = differentiable(state)
    _, last = BASIC.call(sequence, fixed, carried, backend="triton")
    incoming = torch.randn_like(last)
    assert torch.equal(last, state)
    assert torch.equal(torch.autograd.grad(last, carried, incoming)[0], incoming)


def test_a_reset_replaces_what_is_not_finite_and_clamping_does_not_hide_it():
    sequence, fixed, state, _ = draw(BASIC, 17, torch.float32)
    reset = torch.zeros(2, 17, dtype=torch.bool)
    reset[:, 3] = True
    y, last = BASIC.call(sequence, fixed, torch.full_like(state, torch.nan), reset=reset, backend="triton")
    assert y[:, :3].isnan().all()
    assert y[:, 3:].isfinite().all()
    assert last.isfinite().all()
    (v,) = differentiable({"v": sequence["v"]})
    y, _ = BASIC.call(sequence, fixed, state, reset=reset, backend="triton")
    incoming = torch.zeros_like(y)
    incoming[:, 8] = torch.nan
    (dv,) = torch.autograd.grad(y, v, incoming)
    assert dv[:, 7].isnan().any()
    assert not dv[:, :3].any()


def test_the_operators_keep_the_promises_of_pytorch():
    sequence, fixed, state, reset = draw(BASIC, 18, torch.float32)
    BASIC.run(sequence, fixed, state)  # registers the operators
    differentiable(sequence, fixed, state)
    inputs = (*(sequence[n] for n in "qkv"), fixed["w"], sequence["f"], state, reset, 0.3, True, False)
    torch.library.opcheck(torch.ops.matrixstate.m2rnn_scan_triton, inputs)


def test_what_it_cannot_do_is_refused_in_words():
    for case, dtype, message in (
        (BASIC, torch.float64, "triton: needs torch.float32 or torch.bfloat16, got torch.float64"),
        (
            m2rnn("triton", V=65),
            torch.float32,
            "triton: keeps W and its gradient in registers, for which V must be at m",
        ),
    ):
        with pytest.raises(BackendUnavailable, match=message):
            case.run(case.sequence(3, dtype), case.fixed(dtype), case.state(dtype))
    wide = m2rnn("auto", V=65)
    wide.run(wide.sequence(1, torch.float32), wide.fixed(torch.float32), None)  # the others have no such bound


def test_the_interpreter_is_taken_only_by_name(monkeypatch):
    without_cpu = tuple(b for b in OPS["m2rnn_scan"] if b.name != "cpu")
    monkeypatch.setitem(OPS, "m2rnn_scan", without_cpu)
    assert choose("m2rnn_scan", "auto", "cpu", torch.float32, "to pass the cache") == "reference"
    assert choose("m2rnn_scan", "triton", "cpu", torch.float32) == "triton"
    with prefer("triton"):
        assert backends("cpu", torch.float32)["m2rnn_scan"] == "triton"


def test_without_the_interpreter_it_is_taken_on_gpus_alone():
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


def test_one_step_is_that_of_the_scan():
    q = torch.randn(2, 1, 3, 4)
    arguments = q, q, q, torch.randn(3, 4, 4), torch.rand(2, 1, 3)
    for got, expected in zip(
        m2rnn_scan(*arguments, backend="triton"), m2rnn_scan(*arguments, backend="reference"), strict=True
    ):
        torch.testing.assert_close(got, expected)
