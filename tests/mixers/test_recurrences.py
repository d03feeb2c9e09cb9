"""Mixers on outer_scan and delta_scan against their recurrences in float64: outputs, last states and all gradients."""

import math

import pytest
import torch
from outer_products import KEYS, VALUES, apply, back, check, head_norm, outer, read, scan
from stepwise import EPS, SIZES, WIDTH, T, convolved, inputs, rms
from torch.nn.functional import layer_norm, logsigmoid, silu

from matrixstate.mixers import (
    ABCConfig,
    CosFormer2Config,
    GSAConfig,
    HGRN2Config,
    LightNetConfig,
    MLSTMConfig,
    MLSTMLargeConfig,
    PLSTMConfig,
    ReGLAConfig,
    RWKV6Config,
    TransNormerConfig,
)


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


def test_hgrn2_keeps_the_precision_of_keys_where_it_hardly_forgets():
    """1 - f would be 0 in float32 where f rounds to 1."""
    mixer = HGRN2Config(heads=1, key_size=1, value_size=1).make(1)
    with torch.no_grad():
        mixer.inputs.projection.weight.fill_(20.0)
        _, state = mixer(torch.ones(1, 1, 1))
    expected = math.exp(logsigmoid(torch.tensor(-20.0, dtype=torch.float64)).item()) * 20
    assert state.scan.item() == pytest.approx(expected, rel=1e-5)
