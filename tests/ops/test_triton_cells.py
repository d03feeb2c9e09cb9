"""The Triton kernels of the cells: what the tests of all Triton kernels (test_triton.py) do not cover."""

import dataclasses

import pytest
import torch
from against_float64 import assert_all_as_good, draw, run
from cases import Case, cell, differentiable
from torch import Tensor

from closeness import assert_as_good_as
from conftest import need

KINDS = ("rnn", "gru", "gru, reset after", "lstm")


@pytest.fixture(autouse=True)
def _triton_is_needed():
    need("gru_scan", "triton")


class Product(torch.autograd.Function):
    """h [B, H, d] times w [H, d, d] with operands rounded to bfloat16 as the kernel rounds them."""

    @staticmethod
    def forward(ctx, h, w):
        ctx.save_for_backward(h, w)
        return torch.einsum("bhd,hde->bhe", half(h), half(w))

    @staticmethod
    def backward(ctx, dz):
        h, w = ctx.saved_tensors
        return torch.einsum("bhe,hde->bhd", half(dz), half(w)), torch.einsum("bhd,bhe->hde", h, dz)


def half(x: Tensor) -> Tensor:
    return x.bfloat16().to(x)


SLOW = [(kind, 18) for kind in ("rnn", "gru, reset after", "lstm")] + [(kind, 66) for kind in KINDS]


@pytest.mark.parametrize(("kind", "d"), [("gru", 18), *(pytest.param(*c, marks=pytest.mark.slow) for c in SLOW)])
def test_a_model_in_bfloat16_is_as_good_as_plain_pytorch_that_rounds_the_same_operands(kind, d, monkeypatch):
    case = cell("triton", kind, d=d, heads=2)
    drawn = draw(case, 9, torch.bfloat16)
    wide = lambda part: {n: x.double() for n, x in part.items()}  # noqa: E731
    state = drawn[2].double() if isinstance(drawn[2], Tensor) else type(drawn[2])(*(x.double() for x in drawn[2]))
    drawn = wide(drawn[0]), wide(drawn[1]), state, drawn[3]

    def in_bfloat16(case: Case) -> Case:
        def call(sequence, fixed, state, **options):
            narrow = ({n: x.bfloat16() for n, x in part.items()} for part in (sequence, fixed))
            return case.call(*narrow, state, **options)

        return dataclasses.replace(case, call=call)

    exact = run(case, drawn, "reference", torch.float64)
    got = run(in_bfloat16(case), drawn, "triton", torch.float32)
    monkeypatch.setattr("matrixstate.ops.cells.equations.times", Product.apply)
    plain = run(in_bfloat16(case), drawn, "reference", torch.float32)
    for name, value in got.items():
        assert_as_good_as(value, plain[name], exact[name], name)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_that_stream_their_weights_are_as_good_as_plain_pytorch(kind):
    case = cell("triton", kind, d=66, heads=2, batch=1, grad_clip=0.2)
    assert_all_as_good(case, draw(case, 4))


@pytest.mark.parametrize("d", [5, pytest.param(66, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_steps_change_nothing_even_where_their_inputs_are_not_finite(kind, d):
    case = cell("triton", kind, d=d, heads=2, grad_clip=0.5)
    sequence, fixed, state, reset = draw(case, 7, torch.float32)
    mask = torch.tensor([[1, 0, 1, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1, 0]]).bool()
    found = []
    for backend, padding in (("triton", torch.nan), ("reference", 0.0)):
        inputs = {n: x.detach().masked_fill(~mask[..., None, None], padding) for n, x in sequence.items()}
        leaves = differentiable(inputs, fixed, state)
        y, last = case.call(inputs, fixed, state, reset=reset, mask=mask, backend=backend)
        outputs = [y, *([last] if isinstance(last, Tensor) else last)]
        generator = torch.Generator().manual_seed(1)
        incoming = [torch.randn(out.shape, generator=generator) for out in outputs]
        found.append([*outputs, *torch.autograd.grad(outputs, leaves, incoming)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    y, first = found[0][0], state if isinstance(state, Tensor) else state.h
    assert torch.equal(y[0, 4], y[0, 3])
    assert torch.equal(y[1, :3], first[1].expand(3, -1, -1))
