"""Mixers on outer_scan and delta_scan against their recurrences in float64: outputs, last states and all gradients."""

import math

import pytest
import torch
from stepwise import EPS, SIZES, WIDTH, T, compare, convolved, forget, inputs, perturbed, rms
from torch.nn.functional import layer_norm, logsigmoid, normalize, silu, softplus

from closeness import assert_equal_to_rounding
from matrixstate.layers import MLPConfig
from matrixstate.mixers import (
    ABCConfig,
    CombaConfig,
    CosFormer2Config,
    GatedDeltaNet2Config,
    GSAConfig,
    HGRN2Config,
    KDAConfig,
    LightNetConfig,
    LonghornConfig,
    MLSTMConfig,
    MLSTMLargeConfig,
    MoMConfig,
    PLSTMConfig,
    ReGLAConfig,
    RWKV6Config,
    RWKV7Config,
    TransNormerConfig,
)
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig

KEYS, VALUES = (T, 2, 3), (T, 2, 4)


def check(config, definition):
    """Compares y [T, width] and the last S [H, K, V]."""
    compare(config, definition, last)


def last(mixer, state):
    matrix, log_scale, *_ = mixer.state_matrices(state)
    return matrix if log_scale is None else log_scale.exp()[..., None, None] * matrix


def scan(step):
    """y [T, H, V] and the last state [H, K, V] of `step(t, S) -> (S, y)` from zeros."""
    state, rows = torch.zeros(2, 3, 4, dtype=torch.float64), []
    for t in range(T):
        state, y = step(t, state)
        rows.append(y)
    return torch.stack(rows), state


def outer(k, v):
    return k[:, :, None] * v[:, None, :]


def read(q, S):
    return (q[:, :, None] * S).sum(1)


def apply(part, x):
    """A linear map, or a low-rank one."""
    if isinstance(part, torch.nn.Linear):
        return torch.nn.functional.linear(x, part.weight, part.bias)
    z = x @ part.first.weight.T
    z = (z if part.act is None else part.act(z)) @ part.second.weight.T
    return z if part.bias is None else z + part.bias


def back(x):
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def head_norm(y, norm):
    return layer_norm(y, y.shape[-1:], eps=64 * EPS) * norm.weight + norm.bias


@pytest.mark.parametrize("bound", [0.0, 0.3])
def test_hgrn2(bound):
    def definition(mixer, x):
        q, z, v = inputs(mixer, x)
        f = bound + (1 - bound) * torch.sigmoid(z)

        def step(t, S):
            S = f[t, :, :, None] * S + outer(1 - f[t], silu(v[t]))
            return S, read(torch.sigmoid(q[t]), S)

        y, S = scan(step)
        return rms(y.flatten(1), mixer.norm) @ mixer.output.weight.T, S

    check(HGRN2Config(**SIZES, lower_bound=bound), definition)


@pytest.mark.parametrize("depth", [0.0, 0.5])
def test_rwkv6(depth):
    def definition(mixer, x):
        delta = back(x) - x
        low = torch.tanh((x + delta * mixer.mix_bias[0]) @ mixer.mix_down.weight.T).view(T, 5, -1)
        xw, xk, xv, xr, xg = (x + delta * (mixer.mix_bias[i + 1] + low[:, i] @ mixer.mix_up[i]) for i in range(5))
        w = torch.exp(-torch.exp(apply(mixer.decay, xw))).view(KEYS)
        r, k = apply(mixer.read, xr).view(KEYS), apply(mixer.key, xk).view(KEYS)
        v = apply(mixer.value, xv).view(VALUES)

        def step(t, S):
            y = read(r[t], S + mixer.bonus[:, :, None] * outer(k[t], v[t]))
            return w[t, :, :, None] * S + outer(k[t], v[t]), y

        y, S = scan(step)
        return (head_norm(y, mixer.norm).flatten(1) * silu(apply(mixer.gate, xg))) @ mixer.output.weight.T, S

    check(RWKV6Config(**SIZES, mix_rank=2, decay_rank=3, depth=depth), definition)


@pytest.mark.parametrize("depth", [0.0, 0.5])
def test_rwkv7(depth):
    def definition(mixer, x):
        xr, xw, xk, xv, xa, xg = (x + (back(x) - x) * mixer.mixes[i] for i in range(6))
        r, key = apply(mixer.read, xr).view(KEYS), apply(mixer.key, xk).view(KEYS)
        v, a = apply(mixer.value, xv).view(VALUES), torch.sigmoid(apply(mixer.removal, xa)).view(KEYS)
        # as the authors' code: a soft clamp to (-inf, -0.5), then exp(-exp)
        w = torch.exp(-torch.exp(-softplus(-apply(mixer.decay, xw)) - 0.5)).view(KEYS)
        kappa = normalize(key * mixer.removal_key, dim=-1)
        k = key * (1 + (a - 1) * mixer.removal_share)

        def step(t, S):
            S = w[t, :, :, None] * S - outer(a[t] * kappa[t], read(kappa[t], S)) + outer(k[t], v[t])
            return S, read(r[t], S)

        y, S = scan(step)
        y = head_norm(y, mixer.norm) + (r * mixer.bonus * k).sum(-1, keepdim=True) * v
        return (y.flatten(1) * apply(mixer.gate, xg)) @ mixer.output.weight.T, S

    check(RWKV7Config(**SIZES, decay_rank=3, gate_rank=2, depth=depth), definition)


def test_transnormer():
    def definition(mixer, x):
        q, k, v = inputs(mixer, x)
        decay = torch.exp(-torch.tensor([0.0, 4.0]).double() * (1 - 0.5))

        def step(t, S):
            S = decay[:, None, None] * S + outer(silu(k[t]), v[t])
            return S, read(silu(q[t]), S)

        y, S = scan(step)
        y = y.flatten(1)
        y = y / (y.square().mean(-1, keepdim=True) + EPS).sqrt()
        return (y * apply(mixer.gate, x)) @ mixer.output.weight.T, S

    check(TransNormerConfig(**SIZES, depth=0.5), definition)


def test_regla():
    def definition(mixer, x):
        q, k, v = inputs(mixer, x)
        q, k = (a.exp() / a.exp().amax(-1, keepdim=True) for a in (q, k))
        f, r = (torch.sigmoid(apply(part, x)).view(KEYS) for part in (mixer.forget, mixer.refine))
        f = (1 - r) * f**2 + r * (1 - (1 - f) ** 2)

        def step(t, S):
            S = f[t, :, :, None] * S + outer(k[t], v[t])
            return S, read(q[t], S) / (math.e * math.sqrt(3 * (math.e**2 - 1)))

        y, S = scan(step)
        return rms(y, mixer.norm).flatten(1) @ mixer.output.weight.T, S

    check(ReGLAConfig(**SIZES), definition)


def slots(mixer, q, k, v, decay, write):
    """What is read of M slots [T, H, V] and their last values [H, M, V]; decay and write are [T, H, M]."""
    keys, values = torch.zeros(2, 5, 3, dtype=torch.float64), torch.zeros(2, 5, 4, dtype=torch.float64)
    rows = []
    for t in range(T):
        keys = decay[t][..., None] * keys + outer(write[t], k[t])
        values = decay[t][..., None] * values + outer(write[t], v[t])
        rows.append(read(torch.softmax((keys * q[t][:, None]).sum(-1), dim=-1), values))
    return torch.stack(rows), values


def mlstm(q, k, v, forget, write):
    """What is read [T, H, V] and the last C and n [H, K, V + 1]; the gates are [T, H], f and e^i."""
    state, rows = torch.zeros(2, q.shape[2], v.shape[2] + 1, dtype=torch.float64), []
    values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
    for t in range(T):
        state = forget[t, :, None, None] * state + write[t, :, None, None] * outer(k[t], values[t])
        y = read(q[t], state)
        rows.append(y[:, :-1] / y[:, -1:].abs().clamp(min=1))
    return torch.stack(rows), state


def normed(y, norm, eps=EPS):
    return layer_norm(y, y.shape[-1:], eps=eps) * norm.weight


@pytest.mark.parametrize("conv", [0, 3])
def test_mlstm(conv):
    def definition(mixer, x):
        u, z = (x @ mixer.input.weight.T).split(2 * WIDTH, dim=-1)
        c = silu(u) if conv == 0 else convolved(u, mixer.conv)
        maps = [torch.block_diag(*blocks) for blocks in mixer.blocks]
        q, k, v = c @ maps[0], c @ maps[1], u @ maps[2]
        i, f = apply(mixer.gates, torch.cat([q, k, v], dim=-1)).split(2, dim=-1)
        q, k, v = (a.view(T, 2, WIDTH) for a in (q, k, v))
        h, state = mlstm(q / math.sqrt(WIDTH), k, v, torch.sigmoid(f), i.exp())
        return (normed(h, mixer.norm).flatten(1) + mixer.skip * c) * silu(z) @ mixer.output.weight.T, state

    check(MLSTMConfig(heads=2, conv=conv), definition)


def test_mlstm_large():
    def definition(mixer, x):
        q, k, v = (a.view(T, 2, -1) for a in (x @ mixer.inputs.weight.T).split([6, 6, 8], dim=-1))
        i, f = (2 * torch.tanh(apply(mixer.gates, x) / 2)).split(2, dim=-1)
        h, state = mlstm(q / math.sqrt(3), k, v, torch.sigmoid(f), i.exp())
        y = normed(h, mixer.norm, eps=1e-6).flatten(1) * torch.sigmoid(x @ mixer.gate.weight.T)
        return y @ mixer.output.weight.T, state

    check(MLSTMLargeConfig(**SIZES, cap=2.0), definition)


@pytest.mark.parametrize("conv", [0, 3])
def test_gsa(conv):
    def definition(mixer, x):
        q, k, v = (silu(u) for u in inputs(mixer, x))
        f = torch.sigmoid((x @ mixer.slots.weight.T).view(T, 2, 5)) ** (1 / 4)
        y, values = slots(mixer, q, k, v, f, 1 - f)
        return rms(silu(y.flatten(1)), mixer.norm) @ mixer.output.weight.T, values

    check(GSAConfig(**SIZES, slots=5, conv=conv, temperature=4.0), definition)


def test_abc_holds_means_by_a_softmax_over_time():
    def definition(mixer, x):
        q, k, v = inputs(mixer, x)
        s = (x @ mixer.slots.weight.T).view(T, 2, 5)
        rows = []
        for t in range(T):
            p = torch.softmax(s[: t + 1], dim=0)
            keys, values = (torch.einsum("thm,thn->hmn", p, u[: t + 1]) for u in (k, v))
            rows.append(read(torch.softmax((keys * q[t][:, None]).sum(-1) / math.sqrt(3), dim=-1), values))
        y = rms(torch.stack(rows), mixer.norm).flatten(1) * silu(x @ mixer.gate.weight.T)
        return y @ mixer.output.weight.T, values

    check(ABCConfig(**SIZES, slots=5), definition)


def test_lightnet_is_a_softmax_of_the_keys_over_time():
    def definition(mixer, x):
        q, k, v = inputs(mixer, x)
        weights = [k[: t + 1].softmax(0) for t in range(T)]  # [t + 1, H, K]
        states = [torch.einsum("thk,thv->hkv", w, v[: len(w)]) for w in weights]
        y = torch.stack([read(silu(q[t]), S) / math.sqrt(3) for t, S in enumerate(states)])
        y = rms(y.flatten(1), mixer.norm) * silu(apply(mixer.gate, x))
        return y @ mixer.output.weight.T, states[-1]

    check(LightNetConfig(**SIZES, rank=2), definition)


@pytest.mark.parametrize("conv", [0, 3])
def test_plstm(conv):
    def definition(mixer, x):
        past = torch.cat([x.new_zeros(max(conv - 1, 0), WIDTH), x])
        taps = None if conv == 0 else mixer.conv.weight.T
        c = x if conv == 0 else torch.stack([(past[t : t + conv] * taps).sum(0) for t in range(T)]) + mixer.conv.bias
        q, k = (part.view(KEYS) for part in (c @ mixer.query_key.weight.T).split(6, dim=-1))
        v = (x @ mixer.value.weight.T).view(VALUES)
        tau, *gates = apply(mixer.gates, c)[..., None].split(2, dim=1)
        tau, (source, mark, direct) = torch.tanh(5 * tau), (torch.sigmoid(gate) for gate in gates)
        assert (tau < 0).any()

        def step(t, S):
            y = mark[t] * read(q[t], S) + direct[t] * (q[t] * k[t]).sum(-1, keepdim=True) * v[t]
            return tau[t, :, :, None] * S + source[t, :, :, None] * outer(k[t], v[t]), y / math.sqrt(3)

        y, S = scan(step)
        return rms(y, mixer.norm).flatten(1) @ mixer.output.weight.T + mixer.skip * c, S

    check(PLSTMConfig(**SIZES, conv=conv), definition)


@pytest.mark.parametrize("conv", [0, 3])
def test_cosformer2_weighs_by_cosines_of_the_distance(conv):
    def definition(mixer, x):
        q, k, v = inputs(mixer, x)
        angle = torch.tensor([1.0, 0.01, 0.0, 0.0], dtype=torch.float64)  # 10000^(-2c/4), and 0 for the second half
        far = torch.arange(T)[:, None] - torch.arange(T)
        weights = torch.einsum("thc,shc,tsc->tsh", silu(q), silu(k), (far[..., None] * angle).cos())
        y = torch.einsum("tsh,shv->thv", weights * (far >= 0)[..., None], v)
        y = rms(y.flatten(1), mixer.norm) * torch.sigmoid(apply(mixer.gate, x))
        turn = torch.arange(T).double()[:, None, None] * angle[:2]
        first = silu(k)[..., :2]
        keys = torch.cat([first * turn.cos(), first * turn.sin(), silu(k)[..., 2:]], dim=-1)
        return y @ mixer.output.weight.T, torch.einsum("thk,thv->hkv", keys, v)

    check(CosFormer2Config(heads=2, key_size=4, value_size=4, rank=2, conv=conv), definition)


def unit(a):
    return a / a.norm(dim=-1, keepdim=True)


def channel_delta(mixer, x, erased, written):
    """KDA and Gated DeltaNet-2, with what is erased [T, H, K] and written [T, H, V] of k and v."""
    q, k, v = inputs(mixer, x, always_silu=True)
    q, k = unit(q) / math.sqrt(3), unit(k)
    z = apply(mixer.forget, x).view(KEYS)
    alpha = torch.exp(-mixer.forget_gate.A_log.exp() * softplus(z + mixer.forget_gate.dt_bias))

    def step(t, S):
        S = alpha[t, :, :, None] * S
        S = S - outer(k[t], read(erased[t] * k[t], S)) + outer(k[t], written[t] * v[t])
        return S, read(q[t], S)

    y, S = scan(step)
    return (rms(y, mixer.norm).flatten(1) * torch.sigmoid(apply(mixer.gate, x))) @ mixer.output.weight.T, S


@pytest.mark.parametrize(("conv", "top"), [(0, 1.0), (3, 2.0)])
def test_kda(conv, top):
    def definition(mixer, x):
        beta = top * torch.sigmoid(apply(mixer.beta, x))[..., None]
        return channel_delta(mixer, x, beta, beta)

    check(KDAConfig(**SIZES, conv=conv, rank=2, negative_eigenvalues=top == 2.0), definition)


@pytest.mark.parametrize(("conv", "top"), [(0, 1.0), (3, 2.0)])
def test_gated_deltanet2(conv, top):
    def definition(mixer, x):
        erased = top * torch.sigmoid(apply(mixer.erase, x)).view(KEYS)
        return channel_delta(mixer, x, erased, torch.sigmoid(apply(mixer.write, x)).view(VALUES))

    check(GatedDeltaNet2Config(**SIZES, conv=conv, rank=2, negative_eigenvalues=top == 2.0), definition)


@pytest.mark.parametrize("conv", [0, 3])
def test_comba(conv):
    def definition(mixer, x):
        q, k, v = inputs(mixer, x, always_silu=True)
        removal = torch.sigmoid(mixer.removal)[:, None]
        q = unit(q - mixer.correction[:, None] * removal * k) / math.sqrt(3)
        k = unit(k)
        alpha, beta = forget(mixer, apply(mixer.forget, x)), torch.sigmoid(apply(mixer.beta, x))

        def step(t, S):
            S = alpha[t, :, None, None] * S
            S = S + beta[t, :, None, None] * outer(k[t], v[t] - read(removal * k[t], S))
            return S, read(q[t], S)

        y, S = scan(step)
        y = rms(y, mixer.norm).flatten(1) * torch.sigmoid(apply(mixer.gate, x))
        return y @ mixer.output.weight.T, S

    check(CombaConfig(**SIZES, conv=conv), definition)


@pytest.mark.parametrize("conv", [0, 3])
def test_longhorn_solves_its_regression_at_every_step(conv):
    def definition(mixer, x):
        q, k, v = inputs(mixer, x, always_silu=True)
        beta = torch.sigmoid(apply(mixer.beta, x))

        def step(t, S):
            # the minimum of |X - S|² + β |Xᵀ k - v|² is where its gradient is zero: (I + β k kᵀ) X = S + β k vᵀ
            b = beta[t, :, None, None]
            S = torch.linalg.solve(torch.eye(3) + b * outer(k[t], k[t]), S + b * outer(k[t], v[t]))
            return S, read(q[t], S)

        y, S = scan(step)
        y = (y + mixer.skip[:, None] * v).flatten(1) * silu(apply(mixer.gate, x))
        return y @ mixer.output.weight.T, S

    check(LonghornConfig(**SIZES, conv=conv), definition)


@pytest.mark.parametrize(("conv", "shared"), [(0, True), (3, True), (3, False)])
def test_mom(conv, shared):
    def definition(mixer, x):
        M, p = 3 + shared, (x @ mixer.router.weight.T).softmax(-1)
        picked = p.argsort(dim=-1, descending=True)[:, :2]
        u = [torch.cat([x @ mixer.read.weight.T, x @ part.T], dim=-1) for part in mixer.write.weight.chunk(M)]
        betas, forgets = ((x @ part.weight.T).view(T, M, 2) for part in (mixer.beta, mixer.forget))
        S, seen = [torch.zeros(2, 3, 4).double()] * M, [torch.zeros(max(conv - 1, 0), 20).double()] * M
        rows = []
        for t in range(T):
            y = 0
            for m in [*picked[t].tolist(), *([3] if shared else [])]:
                a = u[m][t]
                if conv:
                    seen[m] = torch.cat([seen[m], a[None]])[-conv:]
                    a = (seen[m][-conv:] * mixer.conv.weight.T[-len(seen[m]) :]).sum(0)
                q, k, v = (part.view(2, -1) for part in silu(a).split([6, 6, 8]))
                q, k = unit(q) / math.sqrt(3), unit(k)
                alpha, beta = forget(mixer, forgets[t, m])[:, None, None], torch.sigmoid(betas[t, m])[:, None]
                S[m] = alpha * S[m]
                S[m] = S[m] + outer(k, beta * (v - read(k, S[m])))
                y = y + (1 if m == 3 else p[t, m] / p[t, picked[t]].sum()) * read(q, S[m])
            rows.append(y)
        y = rms(torch.stack(rows), mixer.norm).flatten(1) * silu(x @ mixer.gate.weight.T)
        return y @ mixer.output.weight.T, torch.cat(S)

    check(MoMConfig(**SIZES, memories=3, conv=conv, shared=shared), definition)


def test_a_model_balances_the_memories_of_mom():
    block = BlockConfig(MoMConfig(**SIZES, balance=0.5), MLPConfig(hidden=8))
    model = LanguageModel(ModelConfig(WIDTH, (block, block), vocabulary=11)).double()
    model.train()(torch.randint(11, (2, T)))
    routers = [layer.mixer.router for layer in model.layers]
    loss = model.auxiliary_loss()
    assert_equal_to_rounding(loss, sum(router.balance_loss for router in routers), "loss")
    assert loss > 2 * 0.5  # uneven, so more than at perfect balance
    assert all(g.abs().max() > 0 for g in torch.autograd.grad(loss, [router.weight for router in routers]))


def test_hgrn2_keeps_the_precision_of_keys_where_it_hardly_forgets():
    """1 - f would be 0 in float32 where f rounds to 1."""
    mixer = HGRN2Config(heads=1, key_size=1, value_size=1).make(1)
    with torch.no_grad():
        mixer.inputs.projection.weight.fill_(20.0)
        _, state = mixer(torch.ones(1, 1, 1))
    expected = math.exp(logsigmoid(torch.tensor(-20.0, dtype=torch.float64)).item()) * 20
    assert state.scan.item() == pytest.approx(expected, rel=1e-5)


def test_the_state_of_rwkv7_stays_bounded():
    """Decay and removal share one unit vector: no transition has a norm above 1."""
    mixer = perturbed(RWKV7Config(**SIZES, decay_rank=3, gate_rank=2))
    with torch.no_grad():
        for part in (mixer.key, mixer.removal.second, mixer.decay.second):
            part.weight *= 10
        state = mixer.init_state(1)
        state = state._replace(scan=torch.randn_like(state.scan))
        mixer.value.weight.zero_()
        _, last = mixer(10 * torch.randn(1, 300, WIDTH, dtype=torch.float64), state)
    assert last.scan.norm() <= state.scan.norm()
