"""State space models per channel against their recurrences in float64: outputs, last states and all gradients."""

import math

import pytest
import torch
from stepwise import WIDTH, T, compare, scan
from torch.nn.functional import gelu

from closeness import assert_equal_to_rounding
from matrixstate.layers.discretise import zoh
from matrixstate.layers.hippo import lmu
from matrixstate.mixers import DSSConfig, LiquidS4Config, LMUConfig, LSSLConfig, S4Config


def bilinear_steps(A, b, step):
    """Ā and b̄ of dh/dt = A h + b x by the trapezoidal rule."""
    near = torch.linalg.inv(torch.eye(len(A), dtype=A.dtype) - step / 2 * A)
    return near @ (torch.eye(len(A), dtype=A.dtype) + step / 2 * A), near @ (step * b)


def test_s4_is_diagonal_plus_low_rank_with_all_conjugates():
    def definition(mixer, x):
        def whole(pairs):  # real and imaginary parts [2 n] -> the states and their conjugates
            z = torch.complex(*pairs.chunk(2))
            return torch.cat([z, z.conj()])

        ys, states = [], []
        for d in range(WIDTH):
            P, decay = whole(mixer.low_rank[d]), whole(torch.cat([-mixer.log_rate[d].exp(), mixer.frequency[d]]))
            A, b = bilinear_steps(
                decay.diag() - torch.outer(P, P.conj()), whole(mixer.write[d]), mixer.log_step[d].exp()
            )
            h, last = scan(lambda t, h, A=A, b=b, d=d: A @ h + b * x[t, d], torch.zeros_like(P))
            ys.append((h @ whole(mixer.readout[d]).conj()).real + mixer.skip[d] * x[:, d])
            states.append(torch.cat([last[:3].real, last[:3].imag]))
        z = gelu(torch.stack(ys, dim=1))
        return (z @ mixer.output.weight.T) * torch.sigmoid(z @ mixer.gate.weight.T), torch.stack(states)

    compare(S4Config(states=6), definition)


def test_s4_starts_as_legs():
    mixer = S4Config(states=6).make(2)
    values = torch.linalg.eigvals(mixer.continuous().detach().double())
    assert values.imag.abs().max() < 0.01  # float32 parameters, and eigenvectors that are nearly parallel
    expected = torch.arange(-6.0, 0).double().expand(2, 6)
    assert (values.real.sort(dim=1).values - expected).abs().max() < 0.01
    assert_equal_to_rounding(mixer.write, math.sqrt(2) * mixer.low_rank, "b")


@pytest.mark.parametrize("trained", [False, True])
def test_lssl(trained):
    def definition(mixer, x):
        ys, states = [], []
        for d in range(WIDTH):
            A, b = bilinear_steps(mixer.transition, mixer.write[d], mixer.log_step[d].exp())
            h, last = scan(lambda t, h, A=A, b=b, d=d: A @ h + b * x[t, d], torch.zeros_like(b))
            ys.append(h @ mixer.readout[d].T + x[:, d, None] * mixer.skip[d])
            states.append(last)
        return gelu(torch.cat(ys, dim=1)) @ mixer.output.weight.T, torch.stack(states)

    compare(LSSLConfig(states=4, outputs=2, train_transition=trained), definition)


@pytest.mark.parametrize(("rule", "bounded"), [("zoh", False), ("bilinear", True)])
def test_liquid_s4(rule, bounded):
    def definition(mixer, x):
        A, step = torch.complex(-mixer.log_rate.exp(), mixer.frequency), mixer.log_step.exp()[:, None]
        a = torch.exp(step * A) if rule == "zoh" else (1 + step * A / 2) / (1 - step * A / 2)
        b = (a - 1) / A if rule == "zoh" else step / (1 - step * A / 2)
        b, C_ = b * torch.view_as_complex(mixer.write), torch.view_as_complex(mixer.readout)
        decays = [a + b * u[:, None] for u in x]
        assert max(d.abs().max() for d in decays) > 1
        decays = [d / d.abs().clamp(min=1) for d in decays] if bounded else decays
        h, last = scan(lambda t, h: decays[t] * h + b * x[t, :, None], torch.zeros_like(A))
        z = gelu(2 * (C_ * h).sum(-1).real + mixer.skip * x)
        return (z @ mixer.output.weight.T) * torch.sigmoid(z @ mixer.gate.weight.T), torch.view_as_real(last)

    compare(LiquidS4Config(states=6, rule=rule, bounded=bounded), definition)


def test_lmu():
    def definition(mixer, x):
        A, b = zoh(*lmu(4), torch.tensor(1 / 8.0).double())
        A, b = A.float().double(), b.float().double()  # as the mixer has them
        u = x @ mixer.signal.weight.T + mixer.signal.bias
        m, last = scan(lambda t, m: m @ A.T + u[t, :, None] * b, torch.zeros(3, 4).double())
        z = m.flatten(1) @ mixer.readout.weight.T + x @ mixer.hidden.weight.T + mixer.hidden.bias
        return gelu(z) @ mixer.output.weight.T, last

    compare(LMUConfig(memories=3, order=4, window=8.0), definition)


def test_dss_is_a_convolution_with_a_softmax_over_lags():
    def definition(mixer, x):
        A = torch.complex(-mixer.log_rate.exp(), mixer.frequency)
        exponents = mixer.log_step.exp()[:, None, None] * A[..., None] * torch.arange(20)
        C_ = torch.view_as_complex(mixer.readout)
        shares = exponents.exp() / exponents.exp().sum(-1, keepdim=True)
        kernel = ((C_ / A)[..., None] * shares).sum(1).real
        y = torch.stack([sum(kernel[:, t - s] * x[s] for s in range(t + 1)) for t in range(T)]) + mixer.skip * x
        last = sum(exponents[..., T - 1 - s].exp() * x[s, :, None] for s in range(T))
        z = gelu(y)
        return (z @ mixer.output.weight.T) * torch.sigmoid(z @ mixer.gate.weight.T), torch.view_as_real(last)

    compare(DSSConfig(states=3, length=20), definition)
