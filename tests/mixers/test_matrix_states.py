"""Mixers whose state is a product of matrices against their recurrences in float64."""

import itertools

import pytest
import torch
from stepwise import T, compare, perturbed
from torch.nn.functional import linear

from closeness import assert_equal_to_rounding
from matrixstate.mixers import BilinearRNNConfig, LinearCDEConfig, RegularLRNNConfig, URNConfig

BILINEAR = [("full", 3), ("full", 1), ("cp", 3), ("rotation", 2)]


@pytest.mark.parametrize(("form", "order"), BILINEAR)
def test_bilinear_rnn(form, order):
    def definition(mixer, x):
        z = (x @ mixer.inputs.weight.T).view(T, 2, -1)
        if form == "full":
            A = z.view(T, 2, order, order)
        elif form == "cp":
            A = mixer.left @ torch.diag_embed(z) @ mixer.right
        else:
            a, b = z.unbind(-1)
            A = torch.stack([a, b, -b, a], dim=-1).view(T, 2, 2, 2)
        product, rows = torch.eye(order).double().expand(2, order, order), []
        for t in range(T):
            product = product @ A[t]
            h = (mixer.start[:, None] @ product).flatten()
            rows.append(h / h.square().mean().sqrt())
        return torch.stack(rows) @ mixer.output.weight.T, product

    config = BilinearRNNConfig(heads=2, order=order, form=form, rank=4)
    compare(config, definition, numbers=lambda _, state: state.matrix * state.exponent.exp2()[..., None, None])


def rows(step, mixer):
    """y [T, width] and the last h [2, 1, d] of `step(t, h) -> h`; h is None before the first step."""
    states = [step(0, None)]
    for t in range(1, T):
        states.append(step(t, states[-1]))
    return torch.stack(states).flatten(1) @ mixer.output.weight.T, states[-1]


@pytest.mark.parametrize("norm", ["block", "column"])
def test_regular_lrnn(norm):
    def definition(mixer, x):
        M = mixer.second(torch.relu(mixer.first(x))).view(T, 2, 3, 3)
        M = M - M.mean(2, keepdim=True)
        norms = M.abs().pow(1.5).sum(2, keepdim=True).pow(1 / 1.5)
        A = M / (norms if norm == "column" else norms.amax(3, keepdim=True))
        v = (x @ mixer.inputs.weight.T).view(T, 2, 1, 3)
        return rows(lambda t, h: v[t] if h is None else h @ A[t] + v[t], mixer)

    compare(RegularLRNNConfig(heads=2, order=3, p=1.5, norm=norm), definition)


@pytest.mark.parametrize("rotation", ["matrix_exp", "cayley"])
def test_urn(rotation):
    """A rotation as the sum of the powers of its generator, or by the inverse; the second document begins anew."""

    def definition(mixer, x):
        elements = (x @ mixer.generators.weight.T).view(T, 2, 3)
        L = torch.zeros(T, 2, 3, 3).double()
        L[..., 1, 0], L[..., 2, 0], L[..., 2, 1] = elements.unbind(-1)
        S, one = L - L.mT, torch.eye(3).double()
        if rotation == "cayley":
            Q = (one - S).inverse() @ (one + S)
        else:
            Q, power = one, one
            for n in range(1, 60):
                power = power @ S / n
                Q = Q + power
        first = one[:1].expand(2, 1, 3)
        y, h = rows(lambda t, h: (first if h is None or t == 5 else h) @ Q[t], mixer)
        assert_equal_to_rounding(h.norm(dim=-1), torch.ones(2, 1).double(), "length")
        return y, h

    compare(URNConfig(heads=2, order=3, rotation=rotation), definition, reset=torch.arange(T) == 5)


@pytest.mark.parametrize("rank", [None, 2])
def test_linear_cde(rank):
    def definition(mixer, x):
        field = linear(x, mixer.fields.weight, mixer.fields.bias).view(T, 2, 3, -1)
        if rank is not None:
            field = torch.diag_embed(field[..., 0]) + field[..., 1:3] @ field[..., 3:].mT
        A, start = torch.eye(3).double() + 0.3 * field, linear(x, mixer.start.weight, mixer.start.bias).view(T, 2, 1, 3)
        return rows(lambda t, h: start[t] if h is None or t == 5 else h @ A[t], mixer)

    compare(LinearCDEConfig(heads=2, order=3, rank=rank, step=0.3), definition, reset=torch.arange(T) == 5)


def test_a_document_begins_once_however_it_is_split_and_padded():
    """The first real token is W_0 x in the first part that has one, and in no other."""
    mixer = perturbed(LinearCDEConfig(heads=2, order=3))
    x = torch.randn(2, T, 10, dtype=torch.float64)
    mask = torch.ones(2, T, dtype=torch.bool)
    mask[0, :4] = False
    whole, last = mixer(x, mask=mask)
    state, parts = None, []
    for part, real in zip(x.split((2, 3, 4), dim=1), mask.split((2, 3, 4), dim=1), strict=True):
        y, state = mixer(part, state, mask=real)
        parts.append(y)
    assert_equal_to_rounding(torch.cat(parts, dim=1)[mask], whole[mask], "y")
    assert_equal_to_rounding(state, last, "state")
    alone, _ = mixer(x[:1, 4:])
    assert_equal_to_rounding(whole[:1, 4:], alone, "y without the padding")


def test_a_bilinear_rnn_holds_a_permutation_group_exactly():
    """One head of order 3 whose matrices are those of S3, for one-hot tokens: exact over 500 steps."""
    permutations = list(itertools.permutations(range(3)))
    mixer = BilinearRNNConfig(heads=1, order=3).make(6)
    with torch.no_grad():
        matrices = torch.stack([torch.eye(3)[list(p)] for p in permutations])
        mixer.inputs.weight.copy_(matrices.flatten(1).T)
        mixer.start.copy_(torch.tensor([[1.0, 2.0, 4.0]]))
        mixer.output.weight.copy_(torch.eye(6, 3))
        words = torch.randint(6, (1, 500))
        y, _ = mixer(torch.eye(6)[words])
    h = torch.tensor([1.0, 2.0, 4.0])
    for t, word in enumerate(words[0].tolist()):
        h = h @ matrices[word]
        assert torch.equal(y[0, t, :3].argsort(), h.argsort())
        assert_equal_to_rounding(y[0, t, :3] * 7**0.5, h, "h")
