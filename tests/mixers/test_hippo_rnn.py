"""HiPPO's gated RNN and the LMU against their recurrences in float64, and what a memory of the whole past holds."""

import math

import pytest
import torch
from stepwise import WIDTH, T, perturbed

from closeness import assert_equal_to_rounding
from matrixstate.layers.discretise import bilinear, zoh
from matrixstate.layers.hippo import lagt, legs, legt, lmu
from matrixstate.mixers import HiPPOConfig, LMUCellConfig

F64 = torch.float64


def exact(measure, mixer):
    """The mixer's constant Ā and b̄, or A and b of LegS, without its rounding to float32."""
    A, b = {"legs": legs, "legt": legt, "lagt": lagt}[measure](4)
    A, b = (A, b) if measure == "legs" else zoh(A, b, torch.tensor(1 / 6, dtype=F64))
    for rounded, start in ((mixer.transition, A), (mixer.write, b)):
        assert_equal_to_rounding(rounded.float(), start.float(), "system")
        rounded.copy_(start)
    return A, b


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt"])
@pytest.mark.parametrize("second", [T, 4], ids=["one document", "two documents"])
def test_hippo(measure, second):
    mixer = perturbed(HiPPOConfig(measure=measure, channels=5, memories=2, order=4, window=6.0))
    A, b = exact(measure, mixer)
    U, V, W = mixer.inputs.weight.split([2, 5, 5])
    u, v, w = mixer.inputs.bias.split([2, 5, 5])
    V_c, W_c = mixer.readout.weight.split(5)

    def definition(x):
        rows, h, c, steps = [], torch.zeros(5, dtype=F64), torch.zeros(2, 4, dtype=F64), 0
        for t in range(T):
            if t == second:
                h, c, steps = torch.zeros_like(h), torch.zeros_like(c), 0
            steps += 1
            f = U @ x[t] + u + mixer.signal.weight @ h
            now = bilinear(A, b, torch.tensor(1 / steps, dtype=F64)) if measure == "legs" else (A, b)
            c = c @ now[0].T + f[:, None] * now[1]
            g = torch.sigmoid(V @ x[t] + v + V_c @ c.flatten())
            h = (1 - g) * h + g * torch.tanh(W @ x[t] + w + W_c @ c.flatten())
            rows.append(h)
        return torch.stack(rows) @ mixer.output.weight.T, h, c

    x = torch.randn(T, WIDTH, dtype=F64, requires_grad=True)
    y, state = mixer(x[None], reset=(torch.arange(T) == second)[None])
    assert state.steps.item() == (T if second == T else T - second)
    compare(mixer, x, (y[0], state.hidden[0], state.memory[0]), definition(x))


def compare(mixer, x, *both):
    """Both (y, hidden, memory) and their gradients are equal."""
    leaves, found = {"x": x, **dict(mixer.named_parameters())}, []
    for results in both:
        loss = sum((torch.linspace(0.5, 1.5, r.numel()).double().view_as(r) * r).sum() for r in results)
        found.append((*results, *torch.autograd.grad(loss, list(leaves.values()))))
    names = ("y", "hidden", "memory", *(f"gradient of {name}" for name in leaves))
    for what, got, expected in zip(names, *found, strict=True):
        assert_equal_to_rounding(got, expected, what)


def test_lmu_cell():
    mixer = perturbed(LMUCellConfig(channels=5, order=4, window=6.0))
    A, b = zoh(*lmu(4), torch.tensor(1 / 6, dtype=F64))
    mixer.transition.copy_(A)
    mixer.write.copy_(b)

    def definition(x):
        rows, h, m = [], torch.zeros(5, dtype=F64), torch.zeros(4, dtype=F64)
        e_x, W_x = mixer.inputs.weight.split([1, 5])
        e_h, W_h = mixer.hidden.weight.split([1, 5])
        for t in range(T):
            m = A @ m + b * (e_x @ x[t] + e_h @ h + mixer.from_memory @ m)
            h = torch.tanh(W_x @ x[t] + W_h @ h + mixer.readout.weight @ m)
            rows.append(h)
        return torch.stack(rows) @ mixer.output.weight.T, h, m

    x = torch.randn(T, WIDTH, dtype=F64, requires_grad=True)
    y, state = mixer(x[None])
    compare(mixer, x, (y[0], state.hidden[0], state.memory[0]), definition(x))


@pytest.mark.parametrize("length", [100, 400])
def test_legs_holds_the_whole_past_whatever_its_length(length):
    """A straight line from 0 to 1 is 1/2 P_0 + 1/2 P_1 of Legendre's polynomials, here of length 1."""
    mixer = HiPPOConfig(order=6).make(4).double()
    memory = torch.zeros(1, 1, 6, dtype=F64)
    for t in range(length):
        memory = mixer.remember(memory, torch.full((1, 1), (t + 0.5) / length).double(), torch.tensor([t + 1]))
    expected = torch.tensor([1 / 2, 1 / (2 * math.sqrt(3)), 0, 0, 0, 0]).double()
    assert (memory[0, 0] - expected).abs().max() < 1 / length
