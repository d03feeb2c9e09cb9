"""mru_scan beyond the contract: which backend runs, what is refused, and states that outgrow float32."""

import pytest
import torch

from closeness import assert_as_good_as
from conftest import need
from matrixstate.errors import BackendUnavailable, ShapeError
from matrixstate.ops import ScaledState, SnapState, mru_scan, snap_scan
from matrixstate.ops._dispatch import choose
from matrixstate.ops.mru.builders import BUILDERS

ELEMENTS, DOWN = torch.zeros(2, 5, 3, 16), torch.zeros(3, 4, 6)


@pytest.mark.parametrize("builder", BUILDERS)
def test_auto_fuses_what_the_kernel_knows_and_composes_the_rest(builder):
    need("mru_scan", "cpu")
    fused = builder in ("reshape_identity", "ldu", "cayley")
    assert choose("mru_scan", "auto", "cpu", torch.float32, builder, "auto") == ("cpu" if fused else "composed")
    assert choose("mru_scan", "auto", "cpu", torch.float32, builder, "brent_kung") == "composed"
    if not fused:
        elements = torch.zeros(2, 5, 3, BUILDERS[builder].elements(4))
        with pytest.raises(BackendUnavailable, match=f"not of {builder}"):
            mru_scan(elements, DOWN, builder=builder, backend="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"builder": "qr"}, "builder must be one of reshape_identity, .*got 'qr'"),
        ({"readout": "all"}, "readout must be one of state, normalised, bounded, got 'all'"),
        ({"method": "fast"}, "method must be one of auto, .*got 'fast'"),
        ({"builder": "cayley"}, r"elements must be torch.float32 \[2, 5, 3, 6\]"),
        ({"v": torch.zeros(2, 5, 3, 4, 4), "rescale": True}, "rescale must be False where v is given"),
        ({"v": torch.zeros(2, 5, 3, 4, 6)}, r"v must be torch.float32 \[2, 5, 3, 4, 4\]"),
        ({"decay": torch.ones(2, 5)}, r"decay must be floating point \[B, T, H\]"),
        ({"bound": 0.0}, "bound must be positive, got 0.0"),
        ({"mask": torch.ones(2, 5)}, r"mask must be torch.bool \[2, 5\]"),
        ({"state": torch.zeros(2, 3, 4, 4), "rescale": True}, "state must be a ScaledState where rescale is True"),
        (
            {"state": ScaledState(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, dtype=torch.int32))},
            "state must be a tensor where rescale is False",
        ),
    ],
)
def test_wrong_inputs_are_refused_in_words(options, message):
    with pytest.raises(ShapeError, match=f"mru_scan: {message}"):
        mru_scan(ELEMENTS, DOWN, **options)


@pytest.mark.parametrize("factor", [1e-30, 3e-5, 0.2, 7.0, 4e5, 1e30])
def test_a_rescaled_state_neither_overflows_nor_vanishes(factor):
    """H shrinks or grows as factor^T, from far below float32's range to far above it."""
    need("mru_scan", "cpu")
    noise = 0.1 * torch.randn(2, 40, 3, 16, dtype=torch.float64)
    decay = torch.full((2, 40, 3), factor, dtype=torch.float64)
    results = []
    for dtype, backend in ((torch.float32, "cpu"), (torch.float32, "reference"), (torch.float64, "reference")):
        elements, down = noise.to(dtype).requires_grad_(), torch.ones(3, 4, 6, dtype=dtype)
        y, last = mru_scan(elements, down, decay=decay.to(dtype), rescale=True, readout="normalised", backend=backend)
        assert isinstance(last, ScaledState)
        gradient = torch.autograd.grad(y.square().sum(), elements)[0]
        results.append((y.detach(), gradient, last.matrix.detach(), last.exponent))
    for name, *three in zip(("y", "delements", "matrix"), *(result[:3] for result in results), strict=True):
        assert_as_good_as(*three, name)
    assert torch.equal(results[0][3], results[1][3])


def test_large_elements_need_no_pivots():
    """Skew elements of 1000 and more."""
    need("mru_scan", "cpu")
    elements, down = (
        1000 * torch.randn(1, 8, 2, 28, dtype=torch.float64),
        torch.eye(8, dtype=torch.float64).expand(2, 8, 8),
    )
    run = lambda dtype, backend: mru_scan(  # noqa: E731
        elements.to(dtype), down.to(dtype), builder="cayley", backend=backend
    )[0]
    exact = mru_scan(elements.float().double(), down, builder="cayley", backend="reference")[0]
    assert_as_good_as(run(torch.float32, "cpu"), run(torch.float32, "reference"), exact, "y")


@pytest.mark.parametrize("readout", ["normalised", "bounded"])
@pytest.mark.parametrize("backend", ["reference", "composed", "cpu", "triton"])
def test_a_rescaled_state_of_zeros_gives_zeros(backend, readout):
    """At D 16 the factor that brings the smallest norm to sqrt(D) is beyond float32."""
    need("mru_scan", backend)
    elements, down = torch.randn(1, 3, 2, 256), torch.randn(2, 16, 5)
    state = ScaledState(torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, dtype=torch.int32))
    y, last = mru_scan(elements, down, None, state, readout=readout, rescale=True, backend=backend)
    assert torch.equal(y, torch.zeros(1, 3, 2, 16, 5))
    assert not last.matrix.any()


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_a_corrected_state_of_zeros_gives_zeros(backend):
    need("snap_scan", backend)
    x, codes = torch.randn(1, 3, 2, 16, 16), torch.zeros(1, 4, 2, 16, 16)
    state = SnapState(torch.zeros(1, 2, 16, 16), torch.zeros(1, dtype=torch.int32))
    h, last = snap_scan(x, codes, codes, state, every=2, backend=backend)
    assert not h.any()
    assert not last.matrix.any()
