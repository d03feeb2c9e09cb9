"""mru_scan's Triton kernel beyond the common tests: chunks side by side, extreme numbers, and what it refuses."""

import dataclasses

import pytest
import torch
from against_float64 import assert_all_as_good, draw
from cases import differentiable, mru

from closeness import assert_as_good_as
from conftest import need
from matrixstate.errors import BackendUnavailable
from matrixstate.ops import ScaledState, mru_scan


@pytest.fixture(autouse=True)
def _triton_is_needed():
    need("mru_scan", "triton")


def in_chunks(case):
    """The case with its sequence divided into chunks where the backend is Triton's."""

    def call(sequence, fixed, state, *, backend, **options):
        method = "chunked" if backend == "triton" else "sequential"
        return case.call(sequence, fixed, state, method=method, backend=backend, **options)

    return dataclasses.replace(case, call=call)


def draw_chunks(case):
    """Three chunks of two rows, one with resets within chunks, one with padding in a part of one and all of another."""
    sequence, fixed, state, _ = draw(case, 70)
    reset = torch.zeros(2, 70, dtype=torch.bool)
    reset[0, [5, 7, 64]] = True
    first = sequence["elements"][..., 0]
    first.clamp_(min=-0.05)
    first[1, 20:64] = -5  # padding
    return sequence, fixed, state, reset


@pytest.mark.parametrize(
    "options",
    [
        {"decay": True, "readout": "bounded", "rescale": True},
        pytest.param({"builder": "cayley", "decay": True, "v": True}, marks=pytest.mark.slow),
        pytest.param({"builder": "reshape_identity", "readout": "normalised"}, marks=pytest.mark.slow),
        pytest.param({"readout": "state", "rescale": True}, marks=pytest.mark.slow),
        pytest.param({"readout": "bounded", "v": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_chunks_side_by_side_are_as_good_as_one_step_after_another(options):
    case = in_chunks(mru("triton", heads=1, **options))
    assert_all_as_good(case, draw_chunks(case))


def test_auto_divides_long_sequences_of_few_chains():
    from matrixstate.ops.mru.kernel_triton import INTERVAL, steps_of_a_chunk

    assert steps_of_a_chunk("auto", 600, 4096, 16) == 4096
    assert steps_of_a_chunk("auto", 8, 100, 16) == 100
    assert steps_of_a_chunk("auto", 8, 4096, 16) == 32
    assert steps_of_a_chunk("auto", 400, 4096, 16) % INTERVAL == 0
    assert steps_of_a_chunk("sequential", 8, 4096, 16) == 4096
    assert steps_of_a_chunk("chunked", 9999, 4096, 16) == 2048
    assert steps_of_a_chunk("chunked", 1, 20, 64) == 20


@pytest.mark.parametrize("method", ["sequential", "chunked"])
def test_padding_changes_no_bit_of_the_state_or_its_gradient(method):
    T = 40 if method == "chunked" else 3
    elements, v, down = torch.randn(1, T, 2, 9), torch.randn(1, T, 2, 3, 3), torch.randn(2, 3, 4)
    (state,) = leaves = differentiable({"state": torch.randn(1, 2, 3, 3)})
    leaves += differentiable({"elements": elements, "v": v})
    mask = torch.zeros(1, T, dtype=torch.bool)
    _, last = mru_scan(elements, down, v, state, mask=mask, method=method, backend="triton")
    incoming = torch.randn_like(last)
    dstate, *others = torch.autograd.grad(last, leaves, incoming)
    assert torch.equal(last, state)
    assert torch.equal(dstate, incoming)
    assert not any(gradient.any() for gradient in others)


@pytest.mark.parametrize("v", [None, torch.ones(1, 40, 1, 2, 2)], ids=["product", "written"])
@pytest.mark.parametrize("method", ["sequential", "chunked"])
def test_nothing_that_is_not_finite_passes_a_reset(method, v):
    T = 40 if method == "chunked" else 6
    v = None if v is None else v[:, :T]
    elements, down, state = torch.zeros(1, T, 1, 4), torch.ones(1, 2, 2), torch.full((1, 1, 2, 2), torch.nan)
    elements.requires_grad_()
    reset = torch.arange(T)[None] == 3
    options = {"reset": reset, "builder": "reshape_identity", "method": method, "backend": "triton"}
    y, last = mru_scan(elements, down, v, state, **options)
    assert y[:, :3].isnan().all()
    assert y[:, 3:].isfinite().all()
    assert last.isfinite().all()
    (gradient,) = torch.autograd.grad(y[:, 3:].sum(), elements)
    assert gradient[:, 3:].isfinite().all()


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_a_rescaled_state_neither_overflows_nor_vanishes(factor):
    noise, decay = 0.1 * torch.randn(1, 9, 1, 16, dtype=torch.float64), torch.full((1, 9, 1), factor).double()
    results = []
    for dtype, backend in ((torch.float32, "triton"), (torch.float32, "reference"), (torch.float64, "reference")):
        elements, down = noise.to(dtype).requires_grad_(), torch.ones(1, 4, 6, dtype=dtype)
        y, last = mru_scan(elements, down, decay=decay.to(dtype), rescale=True, readout="normalised", backend=backend)
        assert isinstance(last, ScaledState)
        (gradient,) = torch.autograd.grad(y.square().sum(), elements)
        results.append((y.detach(), gradient, last.matrix.detach(), last.exponent))
    for name, *three in zip(("y", "delements", "matrix"), *(result[:3] for result in results), strict=True):
        assert_as_good_as(*three, name)
    assert torch.equal(results[0][3], results[1][3])


def test_large_elements_need_no_pivots():
    """Skew elements of 1000 and more."""
    elements, down = 1000 * torch.randn(1, 2, 1, 28), torch.eye(8)[None]
    exact, plain, got = (
        mru_scan(elements.to(dtype), down.to(dtype), builder="cayley", backend=backend)[0]
        for dtype, backend in ((torch.float64, "reference"), (torch.float32, "reference"), (torch.float32, "triton"))
    )
    assert_as_good_as(got, plain, exact, "y")


def test_what_it_cannot_do_is_refused_in_words():
    elements, down = torch.zeros(1, 1, 1, 65**2), torch.zeros(1, 65, 1)
    for options, message in (
        ({}, "triton: keeps a state in registers, for which D must be at most 64"),
        ({"method": "sklansky"}, "triton: multiplies steps one after another or in chunks, which is not method 'sklan"),
        ({"builder": "cayley_qr"}, "triton: makes the matrices of reshape_identity, ldu, cayley, not of cayley_qr"),
    ):
        with pytest.raises(BackendUnavailable, match=message):
            mru_scan(elements, down, backend="triton", **options)
    mru_scan(elements, down)  # the others have no such bound
