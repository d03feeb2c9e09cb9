"""What the definitions of mixers with matrices S [H, K, V] as their states share, for one sequence in float64."""

import torch
from stepwise import EPS, T, compare
from torch.nn.functional import layer_norm

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
