"""Mixers of non-linear cells against the equations of their papers, step by step for one sequence in float64."""

import math

import pytest
import torch
from stepwise import EPS, WIDTH, T, compare_outputs, convolved, inputs, rms
from torch.nn.functional import silu, softplus

from closeness import assert_equal_to_rounding
from matrixstate.mixers import (
    CfCConfig,
    ELSTMConfig,
    GRUConfig,
    IndRNNConfig,
    LEMConfig,
    LSTMConfig,
    LTCConfig,
    MGUConfig,
    MultiplicativeLSTMConfig,
    PeepholeLSTMConfig,
    RNNConfig,
    SLSTMConfig,
)


def cell(mixer, x, step, state):
    """y [T, width] of `step(inputs [n, d], weights [n, d, d], state) -> state`, whose first part is h."""
    parts = inputs(mixer, x)
    heads = []
    for h in range(mixer.config.heads):
        carried, rows = state, []
        for t in range(T):
            now = [part[t, h] + bias[h] for part, bias in zip(parts, mixer.bias, strict=True)]
            carried = step(now, mixer.recurrent[:, h], carried)
            rows.append(carried[0])
        heads.append(torch.stack(rows))
    y = torch.stack(heads, dim=1).flatten(1)
    if mixer.gate is not None:
        y = rms(y * silu(x @ mixer.gate.weight.T), mixer.norm)
    return y @ mixer.output.weight.T


ZERO = torch.zeros(5, dtype=torch.float64)


@pytest.mark.parametrize("gate", [False, True])
def test_rnn(gate):
    def step(u, w, state):
        return (torch.tanh(state[0] @ w[0] + u[0]),)

    compare_outputs(RNNConfig(heads=2, head_size=5, conv=3, gate=gate), lambda mixer, x: cell(mixer, x, step, (ZERO,)))


@pytest.mark.parametrize("after", [False, True])
def test_gru(after):
    def step(u, w, state):
        h = state[0]
        f, r = torch.sigmoid(h @ w[1] + u[1]), torch.sigmoid(h @ w[2] + u[2])
        candidate = torch.tanh(r * (h @ w[0]) + u[0]) if after else torch.tanh((h * r) @ w[0] + u[0])
        return (f * h + (1 - f) * candidate,)

    compare_outputs(GRUConfig(heads=2, head_size=5, reset_after=after), lambda mixer, x: cell(mixer, x, step, (ZERO,)))


def test_lstm():
    def step(u, w, state):
        h, c = state
        i, f, o = (torch.sigmoid(h @ w[n] + u[n]) for n in (1, 2, 3))
        c = f * c + i * torch.tanh(h @ w[0] + u[0])
        return o * torch.tanh(c), c

    compare_outputs(LSTMConfig(heads=2, head_size=5), lambda mixer, x: cell(mixer, x, step, (ZERO, ZERO)))


def test_the_forget_bias_of_an_lstm_starts_at_one():
    mixer = LSTMConfig(heads=2).make(WIDTH)
    assert mixer.bias.flatten(1).mean(dim=1).tolist() == [0, 0, 1, 0]


def test_mgu():
    def step(u, w, state):
        f = torch.sigmoid(state[0] @ w[1] + u[1])
        return (f * torch.tanh((f * state[0]) @ w[0] + u[0]) + (1 - f) * state[0],)

    compare_outputs(MGUConfig(heads=2, head_size=5), lambda mixer, x: cell(mixer, x, step, (ZERO,)))


def test_lem():
    def step(u, w, state):
        y, z = state
        d1, d2 = torch.sigmoid(y @ w[0] + u[0]), torch.sigmoid(y @ w[1] + u[1])
        z = (1 - d1) * z + d1 * torch.tanh(y @ w[2] + u[2])
        return (1 - d2) * y + d2 * torch.tanh(z @ w[3] + u[3]), z

    compare_outputs(LEMConfig(heads=2, head_size=5), lambda mixer, x: cell(mixer, x, step, (ZERO, ZERO)))


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize("kind", [RNNConfig, GRUConfig, LSTMConfig, MultiplicativeLSTMConfig])
def test_low_rank_recurrent_weights_are_sums_of_outer_products(kind, diagonal):
    torch.manual_seed(0)
    low = kind(heads=2, head_size=5, rank=2, diagonal=diagonal).make(WIDTH).double()
    whole = kind(heads=2, head_size=5).make(WIDTH).double()
    weights = low.state_dict()
    A, B = weights.pop("recurrent.left"), weights.pop("recurrent.right")
    assert A.shape[-1] == 2
    assert A.abs().max() <= math.sqrt(6 / 7)
    W = sum(A[..., :, r, None] * B[..., None, r, :] for r in range(2))
    if diagonal:
        u = weights.pop("recurrent.diagonal")
        W[..., range(5), range(5)] += u
    whole.load_state_dict(weights | {"recurrent": W})
    x = torch.randn(2, T, WIDTH, dtype=torch.float64)
    (got, _), (expected, _) = low(x), whole(x)
    assert_equal_to_rounding(got, expected, "y")
    got.square().sum().backward()
    expected.square().sum().backward()
    dW, left = whole.recurrent.grad, low.recurrent.left.grad
    assert_equal_to_rounding(left, dW @ B.transpose(-1, -2), "gradient of left")
    if diagonal:
        torch.testing.assert_close(low.recurrent.diagonal.grad, dW.diagonal(dim1=-2, dim2=-1))


def test_lstm_with_full_gate_recurrence():
    def definition(mixer, x):
        left = [h for h in range(2) for _ in range(T)]

        def step(u, w, state):
            (h, c, *old), p = state, mixer.peepholes[:, left.pop(0)]
            into = w[4:].view(3, 3, 5, 5)  # by the gate that sees, then by the gate that is seen

            def gate(n, c):
                return torch.sigmoid(h @ w[n + 1] + u[n + 1] + p[n] * c + sum(old[m] @ into[n, m] for m in range(3)))

            i, f = gate(0, c), gate(1, c)
            c = f * c + i * torch.tanh(h @ w[0] + u[0])
            o = gate(2, c)
            return o * torch.tanh(c), c, i, f, o

        return cell(mixer, x, step, (ZERO,) * 5)

    compare_outputs(PeepholeLSTMConfig(heads=2, head_size=5, variant="FGR"), definition)


def test_indrnn():
    def step(u, w, state):
        return (torch.clamp(w[0].clamp(-1, 1) * state[0] + u[0], min=0),)

    compare_outputs(IndRNNConfig(heads=2, head_size=5), lambda mixer, x: cell(mixer, x, step, (ZERO,)))


def test_elstm():
    def definition(mixer, x):
        def step(u, w, state):
            c, f = state[1], torch.sigmoid(w[1] * state[1] + u[1])
            c = f * c + (1 - f) * torch.tanh(w[0] * c + u[0])
            return torch.sigmoid(c @ read.pop(0) + u[2]) * c, c

        read = [W for W in mixer.read for _ in range(T)]  # `cell` computes a whole head before the next
        return cell(mixer, x, step, (ZERO, ZERO))

    compare_outputs(ELSTMConfig(heads=2, head_size=5), definition)


def test_multiplicative_lstm():
    def step(u, w, state):
        m = u[4] * (state[0] @ w[4])
        i, f, o = (torch.sigmoid(m @ w[n] + u[n]) for n in (1, 2, 3))
        c = f * state[1] + i * torch.tanh(m @ w[0] + u[0])
        return o * torch.tanh(c), c

    compare_outputs(MultiplicativeLSTMConfig(heads=2, head_size=5), lambda mixer, x: cell(mixer, x, step, (ZERO, ZERO)))


@pytest.mark.parametrize("unfolds", [6, 2])
def test_ltc(unfolds):
    """One synapse after another, with `softplus` of weights, leak and capacity."""

    def synapses(potentials, weights):
        """The currents towards every unit, and their conductances."""
        w, m, s, E = weights
        current, total = ZERO.clone(), ZERO.clone()
        for j, v in enumerate(potentials):
            g = softplus(w[j]) * torch.sigmoid(s[j] * (v - m[j]))
            current, total = current + g * E[j], total + g
        return current, total

    def definition(mixer, x):
        left = [h for h in range(2) for _ in range(T)]  # `cell` computes a whole head before the next

        def step(u, weights, state):
            h, v = left.pop(0), state[0]
            leak, rest, capacity = mixer.neurons[:, h]
            leak, capacity = softplus(leak), softplus(capacity)
            driven, open_ = synapses(u[0], mixer.sensory[:, h])
            for _ in range(unfolds):
                current, total = synapses(v, weights)
                v = (unfolds * capacity * v + leak * rest + current + driven) / (
                    unfolds * capacity + leak + total + open_ + 1e-8
                )
            return (v,)

        return cell(mixer, x, step, (ZERO,))

    compare_outputs(LTCConfig(heads=2, head_size=5, unfolds=unfolds), definition)


@pytest.mark.parametrize("variant", ["default", "no_gate", "pure"])
def test_cfc(variant):
    def definition(mixer, x):
        left = [h for h in range(2) for _ in range(T)]

        def step(u, w, state):
            bias = mixer.vectors[:, left.pop(0)]
            z = 1.7159 * torch.tanh(0.666 * (state[0] @ w[0] + u[0]))
            if variant == "pure":
                f = z @ w[1] + bias[0]
                return (bias[2] - bias[2] * torch.exp(-(bias[1].abs() + f.abs())) * f,)
            one, two = torch.tanh(z @ w[1] + bias[0]), torch.tanh(z @ w[2] + bias[1])
            t = torch.sigmoid(z @ w[3] + bias[2])
            return (one + t * two if variant == "no_gate" else (1 - t) * one + t * two,)

        return cell(mixer, x, step, (ZERO,))

    compare_outputs(CfCConfig(heads=2, head_size=5, variant=variant), definition)


@pytest.mark.parametrize("conv", [0, 3])
def test_slstm(conv):
    def definition(mixer, x):
        u = convolved(x, mixer.conv) if conv else x
        z, o = (x @ mixer.direct.weight.T).split(WIDTH, dim=1)
        i, f = (u @ mixer.gates.weight.T).split(WIDTH, dim=1)
        raw = [a.view(T, 2, 5) + b for a, b in zip((z, i, f, o), mixer.bias, strict=True)]
        h, c, n, rows = *(torch.zeros(2, 5).double() for _ in range(3)), []
        for t in range(T):
            z, i, f, o = (a[t] + torch.einsum("hd,hde->he", h, R) for a, R in zip(raw, mixer.recurrent, strict=True))
            c = torch.sigmoid(f) * c + i.exp() * torch.tanh(z)
            n = torch.sigmoid(f) * n + i.exp()
            h = torch.sigmoid(o) * c / n
            rows.append(h)
        y = torch.stack(rows)
        y = torch.nn.functional.layer_norm(y, (5,), eps=EPS) * mixer.norm.weight
        return y.flatten(1) @ mixer.output.weight.T

    compare_outputs(SLSTMConfig(heads=2, conv=conv), definition)
