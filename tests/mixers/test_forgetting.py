"""Options that keep the states of MRU and M²RNN bounded: `weight_bound` and `balanced`."""

import dataclasses

import pytest
import torch

from matrixstate.mixers import M2RNNConfig
from matrixstate.models.presets import MRU_BEST
from matrixstate.ops import write_share

M2RNN = M2RNNConfig(heads=4, key_size=3, value_size=6, weight_start=0.5, weight_bound=0.9)


def make(config, width=12):
    torch.manual_seed(0)
    return config.make(width).double().eval()


def test_a_weight_within_the_bound_is_used_as_it_is():
    mixer = make(M2RNN)
    assert torch.equal(mixer.bounded_weight(), 0.5 * torch.eye(6, dtype=torch.float64).expand(4, 6, 6))


@pytest.mark.parametrize("size", [0.1, 1, 100])
def test_no_weight_exceeds_the_bound(size):
    mixer = make(M2RNN)
    with torch.no_grad():
        mixer.weight += size * torch.randn_like(mixer.weight)
        assert torch.linalg.matrix_norm(mixer.bounded_weight(), ord=2).max() <= 0.9 + 1e-12


@torch.no_grad()
def test_with_a_bound_states_from_different_starts_converge():
    """With a larger W two states stay apart."""
    x = torch.zeros(1, 2000, 12, dtype=torch.float64)
    distances = {}
    for bound in (None, 0.5):
        mixer = make(dataclasses.replace(M2RNN, weight_bound=bound))
        mixer.weight *= 4
        state = mixer.init_state(1)
        _, one = mixer(x, state._replace(scan=state.scan + 0.1))
        _, other = mixer(x, state._replace(scan=state.scan - 0.1))
        distances[bound] = (one.scan - other.scan).abs().amax(dim=(0, 2, 3))
    fast = distances[None] > 1e-3
    assert fast.any()
    assert (distances[0.5][fast] < 0.5 * distances[None][fast]).all()


@pytest.mark.parametrize("log_decay", [-1e-6, -1e-3, -0.1, -3.0])
def test_balanced_writes_preserve_the_variance(log_decay):
    log_f = torch.tensor(log_decay, dtype=torch.float64)
    assert torch.isclose(torch.exp(2 * log_f) + write_share(log_f) ** 2, torch.tensor(1.0, dtype=torch.float64))


def test_the_factor_of_balanced_writes_has_a_finite_gradient_without_decay():
    log_f = torch.zeros(3, requires_grad=True)
    write_share(log_f).sum().backward()
    assert torch.isfinite(log_f.grad).all()


@torch.no_grad()
def test_balanced_heads_have_states_of_similar_size():
    """With noise as input, the state of a head that forgets slowly is no larger than that of one that forgets fast."""
    sizes = {}
    for balanced in (False, True):
        config = dataclasses.replace(MRU_BEST, heads=4, state_size=16, channels=16, balanced=balanced)
        mixer = make(config)
        mixer.forget.weight.zero_()
        mixer.forget_gate.A_log.zero_()
        f = torch.tensor([0.5, 0.9, 0.98, 0.99], dtype=torch.float64)
        mixer.forget_gate.dt_bias.copy_(torch.expm1(-f.log()).log())
        _, state = mixer(torch.randn(64, 600, 12, dtype=torch.float64))
        sizes[balanced] = (state.scan - state.scan.mean(0)).square().mean(dim=(0, 2, 3)).sqrt()
    assert sizes[False][3] > 4 * sizes[False][0]
    assert sizes[True].max() < 3 * sizes[True].min()
