"""Mixers on linear_scan against their recurrences in float64: outputs, last states and all gradients."""

import pytest
import torch
from stepwise import WIDTH, T, compare, perturbed, rms, scan
from torch.nn.functional import gelu, silu, softplus

from closeness import assert_equal_to_rounding
from matrixstate.mixers import (
    AarenConfig,
    GateLoopConfig,
    GILRConfig,
    GILRLSTMConfig,
    HGRNConfig,
    LonghornDiagonalConfig,
    MambaConfig,
    MinGRUConfig,
    MinLSTMConfig,
    QRNNConfig,
    RGLRUConfig,
    RWKV4Config,
    RWKVChannelMixConfig,
    SRUConfig,
)
from matrixstate.mixers.scan import longhorn_diagonal
from matrixstate.ops import NormalisedState

C = 6


def check(config, definition, reset=None):
    """Compares y [T, width] and the last h."""
    compare(config, definition, last, reset)


def last(_, state):
    """h, or the sums of a quotient, in the state of a mixer."""
    state = state if torch.is_tensor(state) or isinstance(state, NormalisedState) else state.scan
    return sums(state) if isinstance(state, NormalisedState) else state


def sums(state):
    """The numbers that the sums of `normalised_scan` stand for, those of weights and then those of values."""
    return torch.cat([state.max.exp() * state.den, state.max.exp() * state.num], dim=-1).flatten(1)


def filtered(u, conv):
    """The causal filter of u [T, channels], without an activation; u itself without a convolution."""
    if conv is None:
        return u
    taps = conv.weight.shape[1]
    past = torch.cat([u.new_zeros(taps - 1, u.shape[1]), u])
    u = torch.stack([(past[t : t + taps] * conv.weight.T).sum(0) for t in range(len(u))])
    return u if conv.bias is None else u + conv.bias


@pytest.mark.parametrize("conv", [0, 4])
@pytest.mark.parametrize("second", [T, 4], ids=["one document", "two documents"])
def test_rg_lru(conv, second):
    reset = torch.arange(T) == second

    def definition(mixer, x):
        u = x @ mixer.input.weight.T
        u = torch.cat([filtered(part, mixer.conv) for part in (u[:second], u[second:]) if len(part)])
        blocks = [torch.block_diag(*gate) for gate in mixer.gates]
        r, i = (torch.sigmoid(u @ W + b.flatten()) for W, b in zip(blocks, mixer.gates_bias, strict=True))
        a = torch.exp(-softplus(mixer.rate)) ** (8 * r)

        def step(t, h):
            return i[t] * u[t] if t in (0, second) else a[t] * h + (1 - a[t] ** 2).sqrt() * i[t] * u[t]

        h, last = scan(step, None)
        gate = gelu(x @ mixer.gate.weight.T, approximate="tanh")
        return (h * gate) @ mixer.output.weight.T, last

    check(RGLRUConfig(channels=C, heads=2, conv=conv), definition, reset)


def test_rg_lru_starts_with_decays_uniform_by_area_in_a_ring():
    torch.manual_seed(0)
    mixer = RGLRUConfig(channels=4096).make(8).double()
    squares = torch.exp(-2 * softplus(mixer.rate)).sort().values
    expected = torch.linspace(0.9**2, 0.999**2, 4096).double()
    assert (squares - expected).abs().max() < 0.01
    assert mixer.conv.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert mixer.gates.std().item() == pytest.approx(1 / 32, rel=0.05)


def test_rg_lru_keeps_digits_and_bounds_gradients_where_it_hardly_forgets():
    """1 - a² would be 0 in float32 where a rounds to 1, and the derivative of its root infinite where it is 0."""
    config = RGLRUConfig(channels=1, heads=1, conv=0)
    for bias, rate in ((-20.0, 0.0), (0.0, -200.0)):
        mixer, written = config.make(1), []
        for same in (mixer, config.make(1).double()):
            same.load_state_dict(mixer.state_dict())
            with torch.no_grad():
                same.gates.zero_()
                same.gates_bias[0].fill_(bias)
                same.rate.fill_(rate)
                same.input.weight.fill_(1)
            x = torch.tensor([[[0.0], [1.0]]], dtype=same.output.weight.dtype)  # the first step writes nothing
            y, state = same(x)
            y.sum().backward()
            assert all(p.grad.isfinite().all() for p in same.parameters())
            written.append(state.scan.item())
        assert written[0] == pytest.approx(written[1], rel=1e-5)


@pytest.mark.parametrize("padded", [0, 2])
def test_rg_lru_knows_a_documents_first_step_by_its_state_alone(padded):
    """A first step of zeros leaves a state of zeros, and yet the step after it is not a first one."""
    mixer = perturbed(RGLRUConfig(channels=C, heads=2, conv=0))
    x = torch.randn(1, 4, WIDTH, dtype=torch.float64)
    x[0, padded] = 0
    real = torch.arange(4)[None] >= padded
    whole, _ = mixer(x[:, padded:])
    y, state = mixer(x[:, : padded + 1], mask=real[:, : padded + 1])
    assert state.begun.all()
    assert not state.scan.any()
    rest, _ = mixer(x[:, padded + 1 :], state)
    assert_equal_to_rounding(torch.cat([y[:, padded:], rest], dim=1), whole, "y")


def candidate(c, positive):
    return torch.where(c >= 0, c + 0.5, torch.sigmoid(c)) if positive else c


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("conv", [0, 3])
def test_min_gru(conv, positive):
    def definition(mixer, x):
        z, c = (filtered(x, mixer.conv) @ mixer.inputs.weight.T + mixer.inputs.bias).split(C, dim=-1)
        z, c = torch.sigmoid(z), candidate(c, positive)
        h, last = scan(lambda t, h: (1 - z[t]) * h + z[t] * c[t], torch.zeros(C).double())
        return h @ mixer.output.weight.T, last

    check(MinGRUConfig(channels=C, conv=conv, positive=positive), definition)


@pytest.mark.parametrize("positive", [False, True])
def test_min_lstm(positive):
    def definition(mixer, x):
        f, i, c = (x @ mixer.inputs.weight.T + mixer.inputs.bias).split(C, dim=-1)
        f, i, c = torch.sigmoid(f), torch.sigmoid(i), candidate(c, positive)
        h, last = scan(lambda t, h: (f[t] * h + i[t] * c[t]) / (f[t] + i[t]), torch.zeros(C).double())
        return h @ mixer.output.weight.T, last

    check(MinLSTMConfig(channels=C, positive=positive), definition)


def test_min_lstm_divides_its_gates_where_both_are_nearly_zero():
    mixer = MinLSTMConfig(channels=1, positive=False).make(1)
    with torch.no_grad():
        mixer.inputs.weight.zero_()
        mixer.inputs.bias.copy_(torch.tensor([-200.0, -200.0, 1.0]))
        _, state = mixer(torch.zeros(1, 1, 1))
    assert state.scan.item() == 0.5


@pytest.mark.parametrize("bound", [0.0, 0.3])
def test_hgrn(bound):
    def definition(mixer, x):
        z, c = (x @ mixer.inputs.weight.T).split(C, dim=-1)
        f = bound + (1 - bound) * torch.sigmoid(z)
        h, last = scan(lambda t, h: f[t] * h + (1 - f[t]) * silu(c[t]), torch.zeros(C).double())
        return (rms(h, mixer.norm) * silu(x @ mixer.gate.weight.T)) @ mixer.output.weight.T, last

    check(HGRNConfig(channels=C, lower_bound=bound), definition)


def test_gilr():
    def definition(mixer, x):
        g, v = (x @ mixer.inputs.weight.T + mixer.inputs.bias).split(C, dim=-1)
        g = torch.sigmoid(g)
        h, last = scan(lambda t, h: g[t] * h + (1 - g[t]) * torch.tanh(v[t]), torch.zeros(C).double())
        return h @ mixer.output.weight.T, last

    check(GILRConfig(channels=C), definition)


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("second", [T, 4], ids=["one document", "two documents"])
def test_gilr_lstm(squash, second):
    reset = torch.arange(T) == second

    def definition(mixer, x):
        s = c = zeros = torch.zeros(C).double()
        rows = []
        for t in range(T):
            s, c = (zeros, zeros) if t == second else (s, c)
            f, i, o, z = (mixer.inputs(x[t]) + mixer.recurrent(s)).split(C)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
            g, v = mixer.surrogate(x[t]).split(C)
            s = torch.sigmoid(g) * s + (1 - torch.sigmoid(g)) * torch.tanh(v)
            rows.append(torch.sigmoid(o) * (torch.tanh(c) if squash else c))
        return torch.stack(rows) @ mixer.output.weight.T, c

    check(GILRLSTMConfig(channels=C, output_tanh=squash), definition, reset)


def test_sru():
    def definition(mixer, x):
        f, u = (x @ mixer.inputs.weight.T + mixer.inputs.bias).split(C, dim=-1)
        f, r = torch.sigmoid(f), torch.sigmoid(x @ mixer.read_gate.weight.T + mixer.read_gate.bias)
        c, last = scan(lambda t, c: f[t] * c + (1 - f[t]) * u[t], torch.zeros(C).double())
        return (r * torch.tanh(c) + (1 - r) * (x @ mixer.highway.weight.T)) @ mixer.output.weight.T, last

    check(SRUConfig(channels=C), definition)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_qrnn(window):
    def definition(mixer, x):
        past = torch.cat([x.new_zeros(window - 1, WIDTH), x])
        taps = mixer.inputs.weight.unflatten(1, (window, WIDTH))  # the last one sees the step itself
        z, f, o = (sum(past[k : k + T] @ taps[:, k].T for k in range(window)) + mixer.inputs.bias).split(C, dim=-1)
        f = torch.sigmoid(f)
        c, last = scan(lambda t, c: f[t] * c + (1 - f[t]) * torch.tanh(z[t]), torch.zeros(C).double())
        return (torch.sigmoid(o) * c) @ mixer.output.weight.T, last

    check(QRNNConfig(channels=C, window=window), definition)


@pytest.mark.parametrize("depth", [0.0, 0.5])
def test_rwkv4(depth):
    def definition(mixer, x):
        before = torch.cat([x.new_zeros(1, WIDTH), x[:-1]])
        xk, xv, xr = (mu * x + (1 - mu) * before for mu in mixer.mixes)
        k, v, r = xk @ mixer.key.weight.T, xv @ mixer.value.weight.T, xr @ mixer.read.weight.T
        w, u = mixer.decay.exp(), mixer.bonus
        rows, num, den = [], torch.zeros(C).double(), torch.zeros(C).double()
        for t in range(T):
            rows.append((num + torch.exp(u + k[t]) * v[t]) / (den + torch.exp(u + k[t])))
            num, den = torch.exp(-w) * num + torch.exp(k[t]) * v[t], torch.exp(-w) * den + torch.exp(k[t])
        return (torch.sigmoid(r) * torch.stack(rows)) @ mixer.output.weight.T, torch.cat([den, num])

    check(RWKV4Config(channels=C, depth=depth), definition)


def test_rwkv_channel_mix():
    def definition(mixer, x):
        before = torch.cat([x.new_zeros(1, WIDTH), x[:-1]])
        xk, xr = (mu * x + (1 - mu) * before for mu in mixer.mixes)
        squares = torch.relu(xk @ mixer.key.weight.T) ** 2
        return torch.sigmoid(xr @ mixer.read.weight.T) * (squares @ mixer.output.weight.T), x[-1:]

    check(RWKVChannelMixConfig(hidden=14, depth=0.5), definition)


@pytest.mark.parametrize("conv", [0, 3])
def test_mamba(conv):
    def definition(mixer, x):
        u, z = (x @ mixer.input.weight.T).split(2 * WIDTH, dim=-1)
        u = silu(u if conv == 0 else filtered(u, mixer.conv))
        low, B, C_ = (u @ mixer.parts.weight.T).split([2, 3, 3], dim=-1)
        step = softplus(low @ mixer.step.weight.T + mixer.step_bias)
        A = -mixer.A_log.exp()
        h, last = scan(
            lambda t, h: torch.exp(step[t, :, None] * A) * h + step[t, :, None] * B[t] * u[t, :, None],
            torch.zeros(2 * WIDTH, 3).double(),
        )
        y = torch.stack([h[t] @ C_[t] for t in range(T)]) + mixer.skip * u
        return (y * silu(z)) @ mixer.output.weight.T, last

    check(MambaConfig(states=3, conv=conv, rank=2), definition)


@pytest.mark.parametrize("conv", [0, 3])
def test_longhorn_diagonal(conv):
    def definition(mixer, x):
        u, z = (x @ mixer.input.weight.T).split(2 * WIDTH, dim=-1)
        u = silu(u if conv == 0 else filtered(u, mixer.conv))
        low, k, q = (u @ mixer.parts.weight.T).split([1, 3, 3], dim=-1)
        beta = torch.sigmoid(low @ mixer.beta.weight.T + mixer.beta.bias)
        step = (beta / (1 + beta * k.square().sum(-1, keepdim=True)))[..., None]
        h, last = scan(
            lambda t, h: (1 - step[t] * k[t] ** 2) * h + step[t] * k[t] * u[t, :, None],
            torch.zeros(2 * WIDTH, 3).double(),
        )
        y = torch.stack([h[t] @ q[t] for t in range(T)]) + mixer.skip * u
        return (y * silu(z)) @ mixer.output.weight.T, last

    check(LonghornDiagonalConfig(states=3, conv=conv), definition)


def test_longhorn_diagonal_keeps_the_digits_of_a_long_keys_decay():
    """1 - ε k² would be 0 in float32, and the derivative of its logarithm infinite."""
    k, ones = torch.tensor([[[3e4, 0.0]]]), torch.ones(1, 1, 1)
    states = []
    for dtype in (torch.float32, torch.float64):
        beta, start = (0.5 * ones).to(dtype).requires_grad_(), torch.ones(1, 1, 2, dtype=dtype)
        _, last = longhorn_diagonal._chunk(k.to(dtype), k.to(dtype), 0 * ones.to(dtype), beta, None, start)
        assert torch.autograd.grad(last.sum(), beta)[0].isfinite().all()
        states.append(last.flatten().tolist())
    assert states[0] == pytest.approx(states[1], rel=1e-6)


def test_hgrn_complex():
    def definition(mixer, x):
        z, re, im = (x @ mixer.inputs.weight.T).split(C, dim=-1)
        f, c = 0.3 + 0.7 * torch.sigmoid(z), torch.complex(silu(re), silu(im))
        turn = torch.polar(torch.ones(C).double(), mixer.angle)
        h, last = scan(lambda t, h: f[t] * turn * h + (1 - f[t]) * c[t], torch.zeros(C, dtype=c.dtype))
        y = rms(torch.cat([h.real, h.imag], dim=-1), mixer.norm) * silu(x @ mixer.gate.weight.T)
        return y @ mixer.output.weight.T, torch.view_as_real(last)

    check(HGRNConfig(channels=C, lower_bound=0.3, phase=True), definition)


@pytest.mark.parametrize("real", [False, True])
def test_gateloop(real):
    def definition(mixer, x):
        q, k, v, g = (x @ mixer.inputs.weight.T).split(C, dim=-1)
        u = x @ mixer.decay.weight.T
        u = u if real else torch.view_as_complex(u.view(T, C, 2))
        a = torch.sigmoid(u) if real else torch.polar(torch.sigmoid(u.abs()), u.angle())
        h, last = scan(lambda t, h: a[t] * h + k[t] * v[t], torch.zeros(C, dtype=a.dtype))
        y = q * (h if real else h.real) * silu(g)
        return y @ mixer.output.weight.T, last if real else torch.view_as_real(last)

    check(GateLoopConfig(channels=C, real=real), definition)


@pytest.mark.parametrize("real", [False, True])
def test_gateloop_with_matrices(real):
    def definition(mixer, x):
        q, k, v, g = (part.view(T, 2, 3) for part in (x @ mixer.inputs.weight.T).split(C, dim=-1))
        u = x @ mixer.decay.weight.T
        u = u if real else torch.view_as_complex(u.view(T, C, 2))
        a = (torch.sigmoid(u) if real else torch.polar(torch.sigmoid(u.abs()), u.angle())).view(T, 2, 3, 1)
        S, last = scan(lambda t, S: a[t] * S + k[t, :, :, None] * v[t, :, None], torch.zeros(2, 3, 3, dtype=a.dtype))
        y = ((q[..., None] * S).sum(2).real * silu(g)).flatten(1)
        return y @ mixer.output.weight.T, last if real else torch.cat([last.real, last.imag], dim=1)

    check(GateLoopConfig(channels=C, head_size=3, real=real), definition)


def test_aaren_is_causal_attention_with_one_query():
    def definition(mixer, x):
        k, v = (u.view(T, 2, 5) for u in (x @ mixer.inputs.weight.T).split(WIDTH, dim=-1))
        s = (k * mixer.query).sum(-1) / 5**0.5
        y = torch.stack([(torch.softmax(s[: t + 1], dim=0)[..., None] * v[: t + 1]).sum(0) for t in range(T)])
        weights = s.exp()[..., None]
        return y.flatten(1) @ mixer.output.weight.T, torch.cat([weights.sum(0), (weights * v).sum(0)], dim=-1).flatten()

    check(AarenConfig(heads=2), definition)
