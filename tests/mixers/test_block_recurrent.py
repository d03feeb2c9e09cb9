"""The Block-Recurrent layer against its definition, token by token in float64."""

import pytest
import torch
from stepwise import WIDTH, T, perturbed
from torch import Tensor

from closeness import assert_equal_to_rounding
from matrixstate.mixers import BlockRecurrentConfig

M, W, K = 3, 4, WIDTH // 2


def parts(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two queries [N, 2, K], a key and a value [N, K]."""
    first, second, k, v = z.split((WIDTH, WIDTH, K, K), dim=-1)
    return first.view(-1, 2, K), second.view(-1, 2, K), k, v


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return ((q @ k.T / K**0.5).softmax(-1) @ v).flatten(1)


def definition(mixer, x: Tensor) -> tuple[Tensor, Tensor]:
    """y [N, width] and the states [M, width] of one document x [N, width]."""
    states, rows = torch.zeros(M, WIDTH, dtype=x.dtype), []
    q, far, k, v = parts(x @ mixer.input.weight.T)
    for t in range(len(x)):
        named = states + mixer.names
        normed = named / (named.square().mean(-1, keepdim=True) + 1e-5).sqrt() * mixer.norm.weight
        p, block, key, value = parts(normed @ mixer.states_input.weight.T)
        near = slice(max(0, t + 1 - W), t + 1)
        rows.append(torch.cat([attend(q[t : t + 1], k[near], v[near]), attend(far[t : t + 1], key, value)], dim=1))
        if t % W == W - 1:
            z = (
                torch.cat([attend(p, key, value), attend(block, k[near], v[near])], dim=1)
                @ mixer.states_output.weight.T
            )
            if mixer.gates is None:
                g = torch.sigmoid(mixer.keep)
                states = g * states + (1 - g) * z
            else:
                keep, write = (z @ mixer.gates.weight.T + mixer.gates.bias).sigmoid().chunk(2, dim=-1)
                states = keep * states + write * z
    return torch.cat(rows) @ mixer.output.weight.T, states


@pytest.mark.parametrize("gate", ["fixed", "lstm"])
def test_block_recurrent(gate):
    """Two documents in the first row, and one with padding in the second."""
    mixer = perturbed(BlockRecurrentConfig(heads=2, states=M, block=W, gate=gate))
    x = torch.randn(2, 3 * T, WIDTH, dtype=torch.float64, requires_grad=True)
    mask, reset = torch.ones(2, 3 * T, dtype=torch.bool), torch.zeros(2, 3 * T, dtype=torch.bool)
    mask[1, [0, 1, 7, 20]], reset[0, 10] = False, True
    y, state = mixer(x, mask=mask, reset=reset)
    first, _ = definition(mixer, x[0, :10])
    second, last = definition(mixer, x[0, 10:])
    padded, last_of_padded = definition(mixer, x[1, mask[1]])
    leaves, found = {"x": x, **dict(mixer.named_parameters())}, []
    for results in (
        (y[0], y[1, mask[1]], state.states),
        (torch.cat([first, second]), padded, torch.stack([last, last_of_padded])),
    ):
        loss = sum((torch.linspace(0.5, 1.5, r.numel()).double().view_as(r) * r).sum() for r in results)
        found.append((*results, *torch.autograd.grad(loss, list(leaves.values()))))
    for what, got, expected in zip(("y", "y", "states", *leaves), *found, strict=True):
        assert_equal_to_rounding(got, expected, what)
