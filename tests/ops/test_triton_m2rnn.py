"""The Triton kernel of m2rnn_scan: what the tests of all Triton kernels (test_triton.py) do not cover."""

import dataclasses

import pytest
import torch
from against_float64 import assert_all_as_good, draw, run
from cases import Case, differentiable, m2rnn

from closeness import assert_as_good_as
from conftest import need
from matrixstate.errors import BackendUnavailable
from matrixstate.ops import m2rnn_scan


@pytest.fixture(autouse=True)
def _triton_is_needed():
    need("m2rnn_scan", "triton")


BASIC = m2rnn("triton", K=4, heads=(1, 3, 1, 1, 3), grad_clip=0.2)


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


def test_wide_values_are_refused_in_words():
    wide = m2rnn("triton", V=65)
    inputs = wide.sequence(1, torch.float32), wide.fixed(torch.float32), None
    with pytest.raises(BackendUnavailable, match="triton: keeps W and its gradient in registers, for which V must be"):
        wide.run(*inputs)
    dataclasses.replace(wide, backend="auto").run(*inputs)  # the others have no such bound


def test_one_step_is_that_of_the_scan():
    q = torch.randn(2, 1, 3, 4)
    arguments = q, q, q, torch.randn(3, 4, 4), torch.rand(2, 1, 3)
    for got, expected in zip(
        m2rnn_scan(*arguments, backend="triton"), m2rnn_scan(*arguments, backend="reference"), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_small_states_are_as_exact_as_large_ones():
    """Relative to their own size: tanh of a small number has as many digits."""
    sequence, fixed, state, reset = draw(BASIC, 9)
    small = {n: x if n == "f" else 1e-3 * x for n, x in sequence.items()}
    assert_all_as_good(BASIC, (small, fixed, 1e-6 * state, reset))
