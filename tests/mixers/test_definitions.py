"""Every mixer against the equations of its paper, written out step by step for one sequence in float64."""

import math

import pytest
import torch
from stepwise import EPS, SIZES, WIDTH, T, convolved, forget, inputs, rms
from torch.nn.functional import elu, logsigmoid, silu, softplus

from matrixstate.mixers import (
    CfCConfig,
    DeltaNetConfig,
    ELSTMConfig,
    ForgettingAttentionConfig,
    GatedDeltaNetConfig,
    GatedDeltaProductConfig,
    GLAConfig,
    GRUConfig,
    IndRNNConfig,
    LEMConfig,
    LinearTransformerConfig,
    LSTMConfig,
    LTCConfig,
    Mamba2Config,
    MGUConfig,
    MRUConfig,
    MultiplicativeLSTMConfig,
    PeepholeLSTMConfig,
    RetNetConfig,
    RNNConfig,
    SLSTMConfig,
)


def check(config, definition):
    """The mixer of `config` with perturbed weights equals `definition(mixer, x)` on x [T, width]."""
    torch.manual_seed(0)
    mixer = config.make(WIDTH).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
        x = torch.randn(T, WIDTH, dtype=torch.float64)
        got, expected = mixer(x[None])[0][0], definition(mixer, x)
    assert got.abs().max() > 1e-3
    assert (got - expected).abs().max() <= 1e-10 * max(1, expected.abs().max())


def by_heads(T_, H, step):
    """y [T, H, V] of `step(t, h, S) -> (S, y)` from zeros."""
    rows = []
    states = [0.0] * H
    for t in range(T_):
        row = []
        for h in range(H):
            states[h], y = step(t, h, states[h])
            row.append(y)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def mru(mixer, x):
    """H_t = f_t H_{t-1} X_t + V_t with X_t = I + E_t, corrected every `snap` steps, read out as H_t W_down."""
    config, D, H = mixer.config, mixer.order, mixer.config.heads
    eye = torch.eye(D, dtype=torch.float64)
    matrices = eye + (convolved(x, mixer.conv) @ mixer.up.weight.T).view(T, H, D, D)
    f = forget(mixer, x @ mixer.forget.weight.T) if config.decay else torch.ones(T, H)
    value = convolved(x @ mixer.value.weight.T, mixer.value_conv).view(T, H, D, D) if config.write else None
    state, rows = [eye if value is None else 0 * eye] * H, []
    for t in range(T):
        state = [f[t, h] * state[h] @ matrices[t, h] for h in range(H)]
        if value is not None:
            share = (1 - f[t] ** 2).sqrt() if config.balanced else torch.ones(H)
            state = [state[h] + share[h] * value[t, h] for h in range(H)]
        if config.snap and (t + 1) % config.snap == 0:
            state = corrected(mixer.codebook, state)
        rows.append(torch.stack([read(state[h], config) @ mixer.down[h] for h in range(H)]).flatten())
    y = torch.stack(rows)
    y = y + mixer.skip * value.flatten(1) if config.skip else y
    y = y * silu(x @ mixer.gate.weight.T) if config.gate else y
    return (rms(y, mixer.norm) if config.norm else y) @ mixer.output.weight.T


def corrected(codebook, state):
    """Each group of heads becomes the mixture of its codes that the softmax of sharpness · cosine says."""
    heads = codebook.codes.shape[2]
    normalised = [h / h.norm() for h in state]
    found = []
    for g, codes in enumerate(codebook.codes / codebook.codes.norm(dim=(-1, -2), keepdim=True)):
        group = torch.stack(normalised[g * heads : (g + 1) * heads])
        cosines = (codes * group).sum(dim=(1, 2, 3)) / heads
        found += (codes * (codebook.log_sharpness.exp() * cosines).softmax(0)[:, None, None, None]).sum(0).unbind()
    return found


def read(h, config):
    size = h.norm() / math.sqrt(len(h))
    if config.readout == "state":
        return h
    return (
        h
        / size
        * (torch.exp(config.bound * torch.tanh(size.log() / config.bound)) if config.readout == "bounded" else 1)
    )


MRU = {"heads": 2, "state_size": 18, "channels": 18, "builder": "reshape_identity"}
WRITING = {**MRU, "rescale": False, "readout": "state", "write": True}


@pytest.mark.parametrize(
    "options",
    [
        MRU,
        {**MRU, "conv": 3, "decay": True},
        {**MRU, "readout": "bounded", "decay": True, "gate": True, "norm": True},
        WRITING,
        {**WRITING, "decay": True, "skip": True, "norm": True},
        {**WRITING, "decay": True, "balanced": True, "skip": True, "gate": True},
        {**MRU, "snap": 4, "codes": 5, "sharpness": 3.0},
        {**MRU, "snap": 3, "codes": 5, "code_groups": 2},
    ],
    ids=str,
)
def test_mru(options):
    check(MRUConfig(**options), mru)


@pytest.mark.parametrize("conv", [0, 3])
def test_linear_transformer(conv):
    def definition(mixer, x):
        q, k, v = inputs(mixer, x)

        def step(t, h, carried):
            S, z = (0, 0) if t == 0 else carried
            feature = elu(k[t, h]) + 1
            S, z = S + torch.outer(feature, v[t, h]), z + feature
            read = elu(q[t, h]) + 1
            return (S, z), read @ S / (read @ z)

        return by_heads(T, 2, step).flatten(1) @ mixer.output.weight.T

    check(LinearTransformerConfig(heads=2, key_size=3, value_size=4, conv=conv), definition)


def test_retnet():
    def definition(mixer, x):
        q, k, v = inputs(mixer, x)
        angle = torch.arange(T).double()[:, None] * torch.tensor([1.0, 0.01], dtype=torch.float64)

        def turn(a):
            pairs = torch.complex(a[..., :2], a[..., 2:]) * torch.polar(torch.ones(T, 1, 2).double(), angle[:, None])
            return torch.cat([pairs.real, pairs.imag], dim=-1)

        q, k = turn(q), turn(k) / math.sqrt(4)

        def step(t, h, S):
            S = (1 - 2.0 ** (-5 - h)) * S + torch.outer(k[t, h], v[t, h])
            return S, q[t, h] @ S

        y = by_heads(T, 3, step)
        y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, correction=0, keepdim=True) + EPS).sqrt()
        return (y.flatten(1) * silu(x @ mixer.gate.weight.T)) @ mixer.output.weight.T

    check(RetNetConfig(heads=3, key_size=4, value_size=5), definition)


@pytest.mark.parametrize("conv", [0, 3])
def test_gla(conv):
    def definition(mixer, x):
        q, k, v = inputs(mixer, x)
        decay = torch.exp(logsigmoid(mixer.decay(x)) / 16).view(T, 2, 3)

        def step(t, h, S):
            S = decay[t, h][:, None] * S + torch.outer(k[t, h], v[t, h])
            return S, q[t, h] @ S / math.sqrt(3)

        y = rms(by_heads(T, 2, step), mixer.norm).flatten(1)
        return (y * silu(x @ mixer.gate.weight.T)) @ mixer.output.weight.T

    check(GLAConfig(heads=2, key_size=3, value_size=4, rank=2, conv=conv), definition)


@pytest.mark.parametrize("groups", [1, 2])
def test_mamba2(groups):
    def definition(mixer, x):
        u, b, c = inputs(mixer, x)
        z, gate = x @ mixer.step.weight.T, mixer.forget_gate
        step_size, decay = softplus(z + gate.dt_bias), forget(mixer, z)

        def step(t, h, S):
            g = h // (4 // groups)
            S = decay[t, h] * S + torch.outer(step_size[t, h] * b[t, g], u[t, h])
            return S, c[t, g] @ S + mixer.skip[h] * u[t, h]

        y = by_heads(T, 4, step).flatten(1) * silu(x @ mixer.gate.weight.T)
        return rms(y, mixer.norm) @ mixer.output.weight.T

    check(Mamba2Config(heads=4, key_size=3, value_size=2, groups=groups), definition)


def delta(mixer, x, *, top=1.0, micro_steps=1, decayed=False, gated=False, key_heads=2):
    """The delta rules of every variant: S <- αS, then micro_steps times S <- (I - βkkᵀ)S + βkvᵀ."""
    q, k, v = inputs(mixer, x, always_silu=True)
    k, v = k.view(T, micro_steps, key_heads, 3), v.view(T, micro_steps, 2, 4)
    beta = top * torch.sigmoid(x @ mixer.beta.weight.T).view(T, micro_steps, 2)
    decay = forget(mixer, x @ mixer.forget.weight.T) if decayed else torch.ones(T, 2)

    def step(t, h, S):
        S, g = (torch.zeros(3, 4).double() if t == 0 else S), h * key_heads // 2
        S = decay[t, h] * S
        for j in range(micro_steps):
            key = k[t, j, g] / k[t, j, g].norm()
            b = beta[t, j, h]
            S = (torch.eye(3) - b * torch.outer(key, key)) @ S + b * torch.outer(key, v[t, j, h])
        return S, q[t, g] / q[t, g].norm() @ S / math.sqrt(3)

    y = rms(by_heads(T, 2, step), mixer.norm).flatten(1)
    return (y * silu(x @ mixer.gate.weight.T) if gated else y) @ mixer.output.weight.T


@pytest.mark.parametrize("conv", [0, 3])
def test_deltanet(conv):
    check(DeltaNetConfig(**SIZES, conv=conv), delta)


@pytest.mark.parametrize("negative", [False, True])
def test_gated_deltanet(negative):
    config = GatedDeltaNetConfig(**SIZES, key_heads=1, negative_eigenvalues=negative)
    top = 2.0 if negative else 1.0
    check(config, lambda mixer, x: delta(mixer, x, top=top, decayed=True, gated=True, key_heads=1))


@pytest.mark.parametrize("decay", [False, True])
def test_gated_deltaproduct(decay):
    config = GatedDeltaProductConfig(**SIZES, micro_steps=3, decay=decay)
    check(config, lambda mixer, x: delta(mixer, x, top=2.0, micro_steps=3, decayed=decay, gated=True))


def test_one_micro_step_is_gated_deltanet():
    one = GatedDeltaProductConfig(**SIZES, micro_steps=1).make(WIDTH).double()
    other = GatedDeltaNetConfig(**SIZES, negative_eigenvalues=True).make(WIDTH).double()
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, T, WIDTH, dtype=torch.float64)
    assert torch.equal(one(x)[0], other(x)[0])


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

    check(RNNConfig(heads=2, head_size=5, conv=3, gate=gate), lambda mixer, x: cell(mixer, x, step, (ZERO,)))


@pytest.mark.parametrize("after", [False, True])
def test_gru(after):
    def step(u, w, state):
        h = state[0]
        f, r = torch.sigmoid(h @ w[1] + u[1]), torch.sigmoid(h @ w[2] + u[2])
        candidate = torch.tanh(r * (h @ w[0]) + u[0]) if after else torch.tanh((h * r) @ w[0] + u[0])
        return (f * h + (1 - f) * candidate,)

    check(GRUConfig(heads=2, head_size=5, reset_after=after), lambda mixer, x: cell(mixer, x, step, (ZERO,)))


def test_lstm():
    def step(u, w, state):
        h, c = state
        i, f, o = (torch.sigmoid(h @ w[n] + u[n]) for n in (1, 2, 3))
        c = f * c + i * torch.tanh(h @ w[0] + u[0])
        return o * torch.tanh(c), c

    check(LSTMConfig(heads=2, head_size=5), lambda mixer, x: cell(mixer, x, step, (ZERO, ZERO)))


def test_the_forget_bias_of_an_lstm_starts_at_one():
    mixer = LSTMConfig(heads=2).make(WIDTH)
    assert mixer.bias.flatten(1).mean(dim=1).tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(("config", "gain"), [(RetNetConfig(), 1 / 2), (GLAConfig(), 2**-2.5)])
def test_retnet_and_gla_start_as_in_their_authors_code(config, gain):
    torch.manual_seed(0)
    mixer = config.make(512)
    q, k, v = mixer.inputs.projection.weight.split([128, 128, 256])
    for weight, scale in (
        (q, 2**-2.5),
        (k, 2**-2.5),
        (v, 2**-2.5),
        (mixer.gate.weight, 2**-2.5),
        (mixer.output.weight, gain),
    ):
        bound = scale * math.sqrt(6 / (weight.shape[0] + weight.shape[1]))
        assert 0.99 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


@pytest.mark.parametrize("pro", [False, True])
def test_forgetting_attention(pro):
    def definition(mixer, x):
        q, k, v = (a.view(T, 2, 5) for a in (x @ mixer.input.weight.T).split(WIDTH, dim=1))
        if pro:
            mixes = torch.sigmoid(x @ mixer.mix.weight.T).view(T, 2, 2, 1).unbind(1)
            k, v = (a * torch.cat([0 * u[:1], u[:-1]]) + (1 - a) * u for a, u in zip(mixes, (k, v), strict=True))
            q, k = rms(q, mixer.norms[0]), rms(k, mixer.norms[1])
        f = torch.sigmoid(x @ mixer.forget.weight.T + mixer.forget.bias)
        rows = []
        for t in range(T):
            kept = torch.stack([f[j + 1 : t + 1].prod(0) for j in range(t + 1)])
            weights = kept * torch.exp((q[t] * k[: t + 1]).sum(-1) / 5**0.5)
            rows.append(((weights / weights.sum(0))[..., None] * v[: t + 1]).sum(0))
        y = torch.stack(rows)
        y = rms(y, mixer.norms[2]) * torch.sigmoid(x @ mixer.gate.weight.T).view(T, 2, 5) if pro else y
        return y.flatten(1) @ mixer.output.weight.T

    check(ForgettingAttentionConfig(heads=2, pro=pro), definition)


def test_mgu():
    def step(u, w, state):
        f = torch.sigmoid(state[0] @ w[1] + u[1])
        return (f * torch.tanh((f * state[0]) @ w[0] + u[0]) + (1 - f) * state[0],)

    check(MGUConfig(heads=2, head_size=5), lambda mixer, x: cell(mixer, x, step, (ZERO,)))


def test_lem():
    def step(u, w, state):
        y, z = state
        d1, d2 = torch.sigmoid(y @ w[0] + u[0]), torch.sigmoid(y @ w[1] + u[1])
        z = (1 - d1) * z + d1 * torch.tanh(y @ w[2] + u[2])
        return (1 - d2) * y + d2 * torch.tanh(z @ w[3] + u[3]), z

    check(LEMConfig(heads=2, head_size=5), lambda mixer, x: cell(mixer, x, step, (ZERO, ZERO)))


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
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    got.square().sum().backward()
    expected.square().sum().backward()
    dW, left = whole.recurrent.grad, low.recurrent.left.grad
    torch.testing.assert_close(left, dW @ B.transpose(-1, -2), rtol=1e-12, atol=1e-12)
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

    check(PeepholeLSTMConfig(heads=2, head_size=5, variant="FGR"), definition)


def test_indrnn():
    def step(u, w, state):
        return (torch.clamp(w[0].clamp(-1, 1) * state[0] + u[0], min=0),)

    check(IndRNNConfig(heads=2, head_size=5), lambda mixer, x: cell(mixer, x, step, (ZERO,)))


def test_elstm():
    def definition(mixer, x):
        def step(u, w, state):
            c, f = state[1], torch.sigmoid(w[1] * state[1] + u[1])
            c = f * c + (1 - f) * torch.tanh(w[0] * c + u[0])
            return torch.sigmoid(c @ read.pop(0) + u[2]) * c, c

        read = [W for W in mixer.read for _ in range(T)]  # `cell` computes a whole head before the next
        return cell(mixer, x, step, (ZERO, ZERO))

    check(ELSTMConfig(heads=2, head_size=5), definition)


def test_multiplicative_lstm():
    def step(u, w, state):
        m = u[4] * (state[0] @ w[4])
        i, f, o = (torch.sigmoid(m @ w[n] + u[n]) for n in (1, 2, 3))
        c = f * state[1] + i * torch.tanh(m @ w[0] + u[0])
        return o * torch.tanh(c), c

    check(MultiplicativeLSTMConfig(heads=2, head_size=5), lambda mixer, x: cell(mixer, x, step, (ZERO, ZERO)))


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

    check(LTCConfig(heads=2, head_size=5, unfolds=unfolds), definition)


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

    check(CfCConfig(heads=2, head_size=5, variant=variant), definition)


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

    check(SLSTMConfig(heads=2, conv=conv), definition)
