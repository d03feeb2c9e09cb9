"""Bidirectional mixers of every kind: both directions, padding, packed documents, and no state."""

import itertools

import pytest
import torch
from configs import CONFIGS
from test_mixers import PADDINGS, WIDTH, assert_gradients_equal, gradients

from closeness import assert_equal_to_rounding
from matrixstate.errors import ShapeError
from matrixstate.mixers import BidirectionalConfig

everywhere = pytest.mark.parametrize("name", CONFIGS)


def make(name):
    torch.manual_seed(0)
    mixer = BidirectionalConfig(CONFIGS[name]).make(WIDTH).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return mixer.eval()


@everywhere
def test_the_output_combines_both_directions(name):
    mixer, x = make(name), torch.randn(2, 6, WIDTH, dtype=torch.float64)
    y, state = mixer(x)
    assert state is None
    both = torch.cat([mixer.forwards(x)[0], mixer.backwards(x.flip(1))[0].flip(1)], dim=-1)
    assert_equal_to_rounding(y, both @ mixer.output.weight.T, "y")
    if name not in ("conv", "rwkv channel mix"):  # whose outputs depend on a few steps only
        seen = torch.autograd.functional.jacobian(lambda a: mixer(a)[0][0, 2].sum(), x)
        assert seen[0].abs().amax(dim=1).min() > 0  # every step depends on every step


@everywhere
def test_documents_and_padding(name):
    """Each document of each row gives what it gives alone, wherever padding is."""
    mixer, real = make(name), torch.tensor(PADDINGS["anywhere"]).bool()
    x = torch.randn(4, 8, WIDTH, dtype=torch.float64)
    reset = torch.rand(4, 8) < 0.35
    y, _ = mixer(x, mask=real, reset=reset)
    for b in range(4):
        alone, starts = x[b, real[b]], reset[b, real[b]].nonzero().flatten().tolist()
        edges = sorted({0, *starts, len(alone)})
        pieces = [mixer(alone[None, i:j])[0][0] for i, j in itertools.pairwise(edges)]
        expected = torch.cat(pieces) if pieces else alone
        assert_equal_to_rounding(y[b, real[b]], expected, "y")
        if pieces:
            assert_gradients_equal(gradients(y[b, real[b]], mixer), gradients(expected, mixer))


def test_a_state_is_refused():
    mixer = BidirectionalConfig(CONFIGS["gru"]).make(WIDTH)
    assert mixer.init_state(3) is None
    with pytest.raises(
        ShapeError, match="Bidirectional: state must be None, since it takes whole sequences, got tuple"
    ):
        mixer(torch.zeros(1, 2, WIDTH), (1,))
