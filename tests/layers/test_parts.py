"""The parts that mixers share: gates, positions, MLPs."""

import math

import pytest
import torch

from matrixstate.layers import MLPConfig
from matrixstate.layers.forget_gate import ForgetGate
from matrixstate.layers.positions import count_positions, rotate, xpos_scale


def test_the_forget_gate_starts_with_decays_over_many_lengths():
    gate = ForgetGate(2000)
    f = gate(torch.zeros(2000))
    rate, step = gate.A_log.exp(), torch.nn.functional.softplus(gate.dt_bias)
    torch.testing.assert_close(f, torch.exp(-rate * step))
    assert ((f > 0) & (f < 1)).all()
    assert 1e-4 <= rate.min() < 0.1
    assert 15 < rate.max() <= 16
    assert 0.00099 < step.min() < 0.0012
    assert 0.09 < step.max() < 0.1001
    assert abs(step.log().mean() - math.log(0.01)) < 0.1


def test_positions_count_real_steps_since_the_last_reset():
    start = torch.tensor([3, 0])
    mask = torch.tensor([[1, 1, 0, 1, 1, 1], [0, 0, 1, 1, 0, 1]]).bool()
    reset = torch.tensor([[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0]]).bool()
    position, following = count_positions(start, 6, mask, reset)
    assert position[0, [0, 1, 3, 4, 5]].tolist() == [3, 4, 5, 0, 1]
    assert position[1, [2, 3, 5]].tolist() == [0, 1, 2]
    assert following.tolist() == [2, 3]
    assert count_positions(start, 2, None, None)[0].tolist() == [[3, 4], [0, 1]]


@pytest.mark.parametrize("xpos", [False, True])
def test_products_of_rotated_vectors_depend_on_their_distance_only(xpos):
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def product(at_q, at_k):
        pq, pk = torch.tensor([[at_q]]), torch.tensor([[at_k]])
        a, b = rotate(q, pq), rotate(k, pk)
        if xpos:
            a, b = xpos_scale(a, pq, 1), xpos_scale(b, pk, -1)
        return (a * b).sum()

    torch.testing.assert_close(product(7, 3), product(104, 100), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(product(0, 0), (q * k).sum())
    if xpos:
        far = sum(abs(product(2000 + d, d)) for d in range(20))
        assert far < 0.5 * sum(abs(product(d, d)) for d in range(20))


@pytest.mark.parametrize(
    "activation", ["gelu", "relu", "swish", "glu", "bilinear", "reglu", "geglu", "geglu_tanh", "swiglu"]
)
def test_mlp_variants_equal_their_definitions(activation):
    mlp = MLPConfig(hidden=6, activation=activation).make(4)
    x = torch.randn(3, 4)
    functions = {"gelu": torch.nn.functional.gelu, "relu": torch.relu, "swish": torch.nn.functional.silu,
                 "glu": torch.sigmoid, "bilinear": lambda h: h, "reglu": torch.relu,
                 "geglu": torch.nn.functional.gelu, "swiglu": torch.nn.functional.silu,
                 "geglu_tanh": lambda h: torch.nn.functional.gelu(h, approximate="tanh")}  # fmt: skip
    hidden = x @ mlp.input.weight.T
    gated = activation not in ("gelu", "relu", "swish")
    assert hidden.shape[-1] == (12 if gated else 6)
    inner = functions[activation](hidden[:, :6]) * (hidden[:, 6:] if gated else 1)
    torch.testing.assert_close(mlp(x), inner @ mlp.output.weight.T)
