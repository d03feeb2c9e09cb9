"""Mixers with diagonal time-invariant recurrences against their definitions in float64, and how they start."""

import copy

import pytest
import torch
from stepwise import WIDTH, compare, scan
from torch.nn.functional import gelu, silu

from closeness import assert_equal_to_rounding
from matrixstate.mixers import (
    GSSConfig,
    LRUConfig,
    MegaEMAConfig,
    S4DConfig,
    S5Config,
)

C = 6


def recurrent(_, state):
    """The part of a state that the recurrence carries."""
    return state if torch.is_tensor(state) else state.scan


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_s4d(rule):
    def definition(mixer, x):
        A = torch.complex(-mixer.log_rate.exp(), mixer.frequency)
        step, C_ = mixer.log_step.exp()[:, None], torch.view_as_complex(mixer.readout)
        a = torch.exp(step * A) if rule == "zoh" else (1 + step * A / 2) / (1 - step * A / 2)
        b = (a - 1) / A if rule == "zoh" else step / (1 - step * A / 2)
        h, last = scan(lambda t, h: a * h + b * x[t, :, None], torch.zeros_like(A))
        z = gelu(2 * (C_ * h).sum(-1).real + mixer.skip * x)
        y = (z @ mixer.output.weight.T) * torch.sigmoid(z @ mixer.gate.weight.T)
        return y, torch.view_as_real(last / b)  # the op keeps h / b

    compare(S4DConfig(states=6, rule=rule), definition, recurrent)


def test_gss():
    def definition(mixer, x):
        gate, v = gelu(x @ mixer.inputs.weight.T).split([4 * WIDTH, C], dim=-1)
        rate = torch.complex(-mixer.log_rate.exp(), mixer.log_frequency.exp())
        a, C_ = torch.exp(rate), torch.view_as_complex(mixer.readout)
        h, last = scan(lambda t, h: a * h + v[t, :, None], torch.zeros_like(C_))
        s = (C_ * (a - 1) / rate * h).sum(-1).real
        return (s @ mixer.expand.weight.T * gate) @ mixer.output.weight.T, torch.view_as_real(last)

    compare(GSSConfig(channels=C, states=3), definition, recurrent)


def test_mega_ema():
    def definition(mixer, x):
        p = torch.sigmoid(mixer.alpha)
        q, written = 1 - p * torch.sigmoid(mixer.delta), p * mixer.beta
        h, last = scan(lambda t, h: q * h + written * x[t, :, None], torch.zeros_like(p))
        y = (mixer.gamma * h).sum(-1) / 3**0.5 + mixer.omega * x
        return silu(y) @ mixer.output.weight.T, last / written

    compare(MegaEMAConfig(states=3), definition, recurrent)


def complex_recurrence(mixer, x, a, gain):
    """y [T, width] and the last state [N, 2] of h = a h + gain (B x), with a and gain complex [N]."""
    B_re, B_im = mixer.inputs.weight.unflatten(0, (-1, 2)).unbind(1)
    C_re, C_im = mixer.readout.weight.unflatten(1, (-1, 2)).unbind(2)
    B, C_ = torch.complex(B_re, B_im), torch.complex(C_re, -C_im)
    h, last = scan(lambda t, h: a * h + gain * (B @ x[t].to(B.dtype)), torch.zeros(len(a), dtype=B.dtype))
    y = gelu(mixer.scale * (h @ C_.T).real + mixer.skip * x)
    return (y @ mixer.output.weight.T) * torch.sigmoid(y @ mixer.gate.weight.T), torch.view_as_real(last)


def test_lru():
    def definition(mixer, x):
        a = torch.exp(torch.complex(-mixer.nu.exp(), mixer.theta.exp()))
        return complex_recurrence(mixer, x, a, mixer.gamma.exp())

    compare(LRUConfig(states=C), definition, recurrent)


@pytest.mark.parametrize(("r_min", "r_max", "phase"), [(0.0, 1.0, 6.28), (0.9, 0.999, 0.3)])
def test_lru_starts_uniform_by_area_in_its_ring(r_min, r_max, phase):
    torch.manual_seed(0)
    mixer = LRUConfig(states=4096, r_min=r_min, r_max=r_max, max_phase=phase).make(8)
    a, gain = mixer.transition()
    squares = a.detach().abs().double().square()
    quantiles = torch.linspace(0, 1, 4096).double()
    ring = r_min**2 + (r_max**2 - r_min**2) * quantiles
    assert (squares.sort().values - ring).abs().max() < 0.04 * (r_max**2 - r_min**2)
    assert (mixer.theta.detach().exp().sort().values - phase * quantiles).abs().max() < 0.04 * phase
    assert_equal_to_rounding(gain.detach().square(), -torch.expm1(-2 * mixer.nu.detach().exp()), "gain")
    assert mixer.inputs.weight.std().item() == pytest.approx(1 / 4, rel=0.02)
    assert mixer.readout.weight.std().item() == pytest.approx(1 / 64, rel=0.02)


def test_s5():
    def definition(mixer, x):
        rates, steps = torch.complex(-mixer.rho.exp(), mixer.omega), mixer.log_step.exp()
        a = torch.exp(steps * rates)
        return complex_recurrence(mixer, x, a, (a - 1) / rates)

    compare(S5Config(states=C, blocks=2), definition, recurrent)


def test_s5_starts_from_eigenvalues_of_the_normal_part_of_the_hippo_matrix():
    torch.manual_seed(0)
    n = 16
    hippo = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(i + 1):
            hippo[i, j] = -(i + 1) if i == j else -((2 * i + 1) ** 0.5) * (2 * j + 1) ** 0.5
    low_rank = (torch.arange(n).double() + 0.5).sqrt()
    eigenvalues, basis = torch.linalg.eig(hippo + torch.outer(low_rank, low_rank))
    half = eigenvalues.imag < 0
    mixer = S5Config(states=24, blocks=3).make(8)
    expected = eigenvalues[half].imag.sort().values.float().repeat(3)
    assert_equal_to_rounding(mixer.omega.detach(), expected, "omega")
    assert_equal_to_rounding(-mixer.rho.detach().exp(), eigenvalues[half].real.float().repeat(3), "real parts")
    # a real normal B, and a normal C with independent parts, in the basis of the eigenvectors
    B = basis[:, half].mH @ torch.randn(n, 2000, dtype=torch.float64).to(basis.dtype) / n**0.5
    one = S5Config(states=8, blocks=1).make(2000)
    sampled = torch.view_as_complex(one.inputs.weight.detach().double().unflatten(0, (-1, 2)).mT.contiguous())
    for matrix in (B, sampled):
        assert (matrix @ matrix.mH / 2000 * n - torch.eye(8)).abs().max() < 0.1
        assert (matrix @ matrix.mT / 2000 * n).abs().max() < 0.1
    assert one.readout.weight.std().item() == pytest.approx(1 / n**0.5, rel=0.02)


def test_s5_keeps_the_digits_of_what_short_steps_write():
    mixer = S5Config(states=4, blocks=1, step_min=1e-7, step_max=1e-6).make(4)
    gains = []
    for same in (mixer, copy.deepcopy(mixer).double()):
        gains.append(torch.view_as_real(same.transition()[1] / same.log_step.exp()).detach())  # about 1
    assert_equal_to_rounding(gains[0], gains[1].float(), "gain per length of a step")
