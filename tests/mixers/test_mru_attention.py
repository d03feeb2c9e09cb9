"""Attention with products of matrices: what scores depend on, and its equality with rotary attention at the start."""

import math

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.layers.state_matrix import build_state_matrix
from matrixstate.mixers import AttentionConfig, MRUAttentionConfig
from matrixstate.mixers.matrix import mru_attention
from matrixstate.mixers.matrix.mru_attention import multiply_channels
from matrixstate.ops import matrix_scan

WIDTH = 24


def make(config, seed=0, noise=0.1):
    torch.manual_seed(seed)
    mixer = config.make(WIDTH).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += noise * torch.randn_like(parameter)
    return mixer.eval()


@pytest.mark.parametrize("builder", ["cayley", "matrix_exp", "householder"])
def test_scores_depend_only_on_the_matrices_between_query_and_key(builder):
    torch.manual_seed(0)
    T, D = 7, 3
    elements = torch.randn(1, T, 2, D * (D - 1) // 2, dtype=torch.float64)
    x = build_state_matrix(builder, elements, D)
    q, k = torch.randn(2, 1, T, 1, 2 * D, dtype=torch.float64)
    products, _ = matrix_scan(x)
    scores = torch.einsum("bihk,bjhk->bij", multiply_channels(products, q), multiply_channels(products, k))[0]
    for i in range(T):
        for j in range(i + 1):
            expected = 0.0
            for chunk in range(2):
                between = torch.eye(D, dtype=torch.float64)
                for t in range(j + 1, i + 1):
                    between = between @ x[0, t, chunk]
                part = slice(chunk * D, (chunk + 1) * D)
                expected += (between @ q[0, i, 0, part]) @ k[0, j, 0, part]
            assert_equal_to_rounding(scores[i, j], torch.as_tensor(expected), f"score {i}, {j}")


@pytest.mark.parametrize("order", [2, 4, 6])
@pytest.mark.parametrize("builder", ["cayley", "matrix_exp"])
@pytest.mark.parametrize("key_heads", [2, 1])
def test_it_starts_as_rotary_attention(order, builder, key_heads):
    mixer = make(MRUAttentionConfig(heads=2, key_heads=key_heads, order=order, builder=builder), noise=0)
    rotary = AttentionConfig(heads=2, key_heads=key_heads, positions="rotary").make(WIDTH).double()
    K = WIDTH // 2
    # rotary positions pair the channels n and n + K/2, the matrices 2n and 2n + 1: reorder each head of q and k
    order_of = torch.arange(K).view(2, K // 2).T.flatten()
    rows = torch.cat([h * K + order_of for h in range(2 + key_heads)])
    with torch.no_grad():
        mixer.input.weight[: len(rows)] = rotary.input.weight[rows]
        mixer.input.weight[len(rows) :] = rotary.input.weight[len(rows) :]
        mixer.output.weight.copy_(rotary.output.weight)
        angle = 10_000 ** (-torch.arange(K // 2, dtype=torch.float64) / (K // 2))  # which the mixer has in float32
        filled = mixer.bias != 0
        exact = torch.tan(angle / 2) if builder == "cayley" else angle
        mixer.bias[filled] = exact.repeat(key_heads)
    x = torch.randn(2, 9, WIDTH, dtype=torch.float64)
    assert_equal_to_rounding(mixer(x)[0], rotary(x)[0], "y")


@pytest.mark.parametrize("window", [None, 4])
def test_orthogonal_matrices_by_the_way_of_all_others(monkeypatch, window):
    """Keys that pass through the matrices step by step, over more than a chunk, in two calls."""
    mixer = make(MRUAttentionConfig(heads=4, key_heads=2, order=3, builder="matrix_exp", start="none", window=window))
    x = torch.randn(2, 40, WIDTH, dtype=torch.float64)
    reset = torch.rand(2, 40) < 0.1
    expected, _ = mixer(x, reset=reset)
    monkeypatch.setattr(mru_attention, "ORTHOGONAL", ())
    first, state = mixer(x[:, :23], reset=reset[:, :23])
    second, state = mixer(x[:, 23:], state, reset=reset[:, 23:])
    assert_equal_to_rounding(torch.cat([first, second], dim=1), expected, "y")
    assert state.product is None


def test_the_output_depends_on_the_order_of_the_tokens_between():
    mixer = make(MRUAttentionConfig(heads=2, order=3, start="none"), noise=0.5)
    x = torch.randn(1, 4, WIDTH, dtype=torch.float64)
    swapped = x[:, [0, 2, 1, 3]]
    (y, _), (z, _) = mixer(x), mixer(swapped)
    assert (y[0, 3] - z[0, 3]).abs().max() > 1e-4
    plain = make(MRUAttentionConfig(heads=2, order=3, start="none"), noise=0)
    with torch.no_grad():
        plain.input.weight.normal_()
    assert_equal_to_rounding(plain(x)[0][0, 3], plain(swapped)[0][0, 3], "y with identity matrices")


def test_products_stay_orthogonal_in_float32():
    torch.manual_seed(0)
    mixer = MRUAttentionConfig(heads=2, order=4).make(WIDTH)
    torch.nn.init.normal_(mixer.up.weight, std=0.3)
    _, state = mixer(torch.randn(1, 1000, WIDTH))
    drift = (state.product @ state.product.mT - torch.eye(4)).abs().max()
    assert drift < 8 * math.sqrt(1000) * torch.finfo(torch.float32).eps
