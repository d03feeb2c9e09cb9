"""The parts of mixers written out for one sequence in float64, for the tests against equations."""

import torch
from torch.nn.functional import silu, softplus

from closeness import assert_equal_to_rounding

WIDTH, T, EPS = 10, 9, 1e-5
SIZES = {"heads": 2, "key_size": 3, "value_size": 4}


def perturbed(config, dtype=torch.float64):
    """The mixer of `config` with perturbed weights, for at initialisation many mixers do nothing."""
    torch.manual_seed(0)
    mixer = config.make(WIDTH).to(dtype)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return mixer


def compare(config, definition, numbers=lambda mixer, state: state, reset=None):
    """The mixer of `config` gives what `definition(mixer, x)` gives on x [T, width]: y [T, width] and the last state.

    A state is compared by its `numbers` [1, ...].
    """
    mixer = perturbed(config)
    x = torch.randn(T, WIDTH, dtype=torch.float64, requires_grad=True)
    y, state = mixer(x[None], reset=None if reset is None else reset[None])
    assert y.abs().max() > 1e-3
    leaves, found = {"x": x, **dict(mixer.named_parameters())}, []
    for results in ((y[0], numbers(mixer, state)[0]), definition(mixer, x)):
        loss = sum((torch.linspace(0.5, 1.5, r.numel()).double().view_as(r) * r).sum() for r in results)
        found.append((*results, *torch.autograd.grad(loss, list(leaves.values()))))
    for what, got, expected in zip(("y", "state", *(f"gradient of {name}" for name in leaves)), *found, strict=True):
        assert_equal_to_rounding(got, expected, what)


def compare_outputs(config, definition):
    """The mixer of `config` gives the y [T, width] that `definition(mixer, x)` gives on x [T, width]."""
    mixer = perturbed(config)
    with torch.no_grad():
        x = torch.randn(T, WIDTH, dtype=torch.float64)
        got, expected = mixer(x[None])[0][0], definition(mixer, x)
    assert got.abs().max() > 1e-3
    assert_equal_to_rounding(got, expected, "y")


def scan(step, start):
    """y [T, ...] of `step(t, h) -> h` from `start`, and the last h."""
    rows = []
    for t in range(T):
        rows.append(step(t, rows[-1] if rows else start))
    return torch.stack(rows), rows[-1]


def convolved(u, conv):
    """silu of the causal filter of u [T, C]; u itself without a convolution."""
    if conv is None:
        return u
    taps = conv.weight.shape[1]
    past = torch.cat([u.new_zeros(taps - 1, u.shape[1]), u])
    u = torch.stack([(past[t : t + taps] * conv.weight.T).sum(0) for t in range(T)])
    return silu(u if conv.bias is None else u + conv.bias)


def inputs(mixer, x, *, always_silu=False):
    """Each input of the mixer's heads [T, heads, size], convolved as the definition of a causal filter says."""
    u, conv = x @ mixer.inputs.projection.weight.T, mixer.inputs.conv
    u = convolved(u, conv)
    u = silu(u) if conv is None and always_silu else u
    sizes = [heads * size for heads, size in mixer.inputs.parts]
    return [part.view(T, *shape) for part, shape in zip(u.split(sizes, dim=1), mixer.inputs.parts, strict=True)]


def rms(y, norm):
    return y / (y.square().mean(-1, keepdim=True) + EPS).sqrt() * norm.weight


def forget(mixer, z):
    gate = mixer.forget_gate
    return torch.exp(-gate.A_log.exp() * softplus(z + gate.dt_bias))
