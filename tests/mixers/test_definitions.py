"""Every mixer against the equations of its paper, written out step by step for one sequence in float64."""

import math

import pytest
import torch
from stepwise import EPS, SIZES, WIDTH, T, compare_outputs, convolved, forget, inputs, rms
from torch.nn.functional import elu, logsigmoid, silu, softplus

from matrixstate.mixers import (
    DeltaNetConfig,
    ForgettingAttentionConfig,
    GatedDeltaNetConfig,
    GatedDeltaProductConfig,
    GLAConfig,
    LinearTransformerConfig,
    Mamba2Config,
    MRUConfig,
    RetNetConfig,
)


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
    compare_outputs(MRUConfig(**options), mru)


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

    compare_outputs(LinearTransformerConfig(heads=2, key_size=3, value_size=4, conv=conv), definition)


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

    compare_outputs(RetNetConfig(heads=3, key_size=4, value_size=5), definition)


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

    compare_outputs(GLAConfig(heads=2, key_size=3, value_size=4, rank=2, conv=conv), definition)


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

    compare_outputs(Mamba2Config(heads=4, key_size=3, value_size=2, groups=groups), definition)


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
    compare_outputs(DeltaNetConfig(**SIZES, conv=conv), delta)


@pytest.mark.parametrize("negative", [False, True])
def test_gated_deltanet(negative):
    config = GatedDeltaNetConfig(**SIZES, key_heads=1, negative_eigenvalues=negative)
    top = 2.0 if negative else 1.0
    compare_outputs(config, lambda mixer, x: delta(mixer, x, top=top, decayed=True, gated=True, key_heads=1))


@pytest.mark.parametrize("decay", [False, True])
def test_gated_deltaproduct(decay):
    config = GatedDeltaProductConfig(**SIZES, micro_steps=3, decay=decay)
    compare_outputs(config, lambda mixer, x: delta(mixer, x, top=2.0, micro_steps=3, decayed=decay, gated=True))


def test_one_micro_step_is_gated_deltanet():
    one = GatedDeltaProductConfig(**SIZES, micro_steps=1).make(WIDTH).double()
    other = GatedDeltaNetConfig(**SIZES, negative_eigenvalues=True).make(WIDTH).double()
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, T, WIDTH, dtype=torch.float64)
    assert torch.equal(one(x)[0], other(x)[0])


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

    compare_outputs(ForgettingAttentionConfig(heads=2, pro=pro), definition)
