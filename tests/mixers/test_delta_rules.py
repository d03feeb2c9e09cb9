"""Mixers on delta_scan against their recurrences in float64: outputs, last states and all gradients."""

import math

import pytest
import torch
from outer_products import KEYS, VALUES, apply, back, check, head_norm, outer, read, scan
from stepwise import SIZES, WIDTH, T, forget, inputs, perturbed, rms
from torch.nn.functional import normalize, silu, softplus

from closeness import assert_equal_to_rounding
from matrixstate.layers import MLPConfig
from matrixstate.mixers import (
    CombaConfig,
    GatedDeltaNet2Config,
    KDAConfig,
    LonghornConfig,
    MoMConfig,
    RWKV7Config,
)
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig


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
