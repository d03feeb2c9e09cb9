"""The mixture of experts against its definition token by token, its load-balancing loss, and its training."""

import copy
import dataclasses

import pytest
import torch
from small import small_config

from closeness import assert_equal_to_rounding
from matrixstate.configs import decode, encode
from matrixstate.errors import ConfigError
from matrixstate.layers import MLPConfig, MoEConfig
from matrixstate.mixers import M2RNNConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig, count
from matrixstate.training import CHOICES, start, train

WIDTH = 6


def make(config):
    torch.manual_seed(0)
    layer = config.make(WIDTH).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.4 * torch.randn_like(parameter)
    return layer


def definition(layer, x):
    """y computed token by token, the experts in the order of their probability."""
    config, rows = layer.config, []
    for token in x.view(-1, WIDTH):
        p = (layer.router.weight @ token).softmax(0)
        best = p.argsort(descending=True)[: config.active]
        total = p[best].sum() if config.normalise else 1.0
        y = 0.0
        for e in best:
            a, b = (token @ layer.input.weight[e]).chunk(2)
            y = y + p[e] / total * (torch.nn.functional.silu(a) * b) @ layer.output.weight[e]
        rows.append(y if layer.shared is None else y + layer.shared(token))
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("active", "shared"), [(1, 0), (2, 3), (5, 0)])
def test_the_output_is_the_weighted_sum_of_the_likeliest_experts(active, shared, normalise):
    layer = make(MoEConfig(4, "swiglu", experts=5, active=active, shared=shared, normalise=normalise))
    x = torch.randn(2, 7, WIDTH, dtype=torch.float64, requires_grad=True)
    y, expected = layer(x), definition(layer, x)
    assert_equal_to_rounding(y, expected, "y")
    leaves = [x, *layer.parameters()]
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype).view_as(y)
    got, wanted = (torch.autograd.grad((z * weights).sum(), leaves, allow_unused=True) for z in (y, expected))
    for one, other in zip(got, wanted, strict=True):
        other = torch.zeros_like(one) if other is None else other
        assert_equal_to_rounding(one, other, "gradient")


def test_tokens_do_not_affect_each_other():
    layer, x = make(MoEConfig(4, experts=3)), torch.randn(1, 9, WIDTH, dtype=torch.float64)
    alone = torch.cat([layer(x[:, t : t + 1]) for t in range(9)], dim=1)
    assert_equal_to_rounding(layer(x), alone, "y")
    assert layer(x[:, :0]).shape == (1, 0, WIDTH)


def test_the_load_balancing_loss():
    config = MoEConfig(4, experts=4, active=2, balance=0.5)
    layer, x = make(config), torch.randn(50, WIDTH, dtype=torch.float64)
    layer(x)
    p = (x @ layer.router.weight.T).softmax(-1)
    picks = torch.zeros(4, dtype=torch.float64)
    for row in p.topk(2).indices:
        picks[row] += 1
    assert_equal_to_rounding(layer.balance_loss, 0.5 * 4 * (picks / 100 * p.mean(0)).sum(), "loss")
    assert layer.balance_loss > 0.5  # uneven, so more than at perfect balance
    assert torch.autograd.grad(layer.balance_loss, layer.router.weight)[0].abs().max() > 0
    torch.nn.init.zeros_(layer.router.weight)
    layer(x)
    assert_equal_to_rounding(layer.balance_loss, torch.tensor(0.5).double(), "loss when all are equally likely")
    layer.eval()(x)
    assert layer.balance_loss is None


def test_a_copy_of_a_layer_in_training_has_no_balance_loss():
    layer = make(MoEConfig(4, experts=4, active=2))
    layer(torch.randn(5, WIDTH, dtype=torch.float64))
    same = copy.deepcopy(layer)
    assert layer.balance_loss is not None
    assert same.balance_loss is None
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), same.parameters(), strict=True))


def test_counts_exclude_experts_that_a_token_does_not_use():
    mixture = MoEConfig(10, "swiglu", experts=8, active=2, shared=5)
    config = ModelConfig(WIDTH, (BlockConfig(None, mixture),), 17)
    counts, model = count(config, 4), LanguageModel(config)
    assert counts.parameters == sum(p.numel() for p in model.parameters())
    used = 2 * (WIDTH * 20 + 10 * WIDTH) + WIDTH * 10 + 5 * WIDTH + 8 * WIDTH
    assert counts.flops_per_token == 2 * (used + 17 * WIDTH)
    norms = 2 * WIDTH
    assert counts.active_parameters == used + norms


def test_the_last_projections_are_scaled_with_the_depth():
    config = ModelConfig(64, (BlockConfig(None, MoEConfig(64, experts=4, shared=128), repeat=4),), 17)
    for block in LanguageModel(config).layers:
        for weight in block.mlp.last_weights():
            assert weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert block.mlp.input.weight.std().item() == pytest.approx(0.02, rel=0.1)


def with_experts(directory, **options):
    mixture = MoEConfig(8, "swiglu", experts=6, active=2, shared=4, **options)
    blocks = (BlockConfig(M2RNNConfig(heads=2, key_size=3, value_size=5), mixture),)
    config = small_config(directory, steps=40, dropout=0.0, learning_rate=5e-3)
    return dataclasses.replace(config, model=ModelConfig(16, blocks))


def test_it_trains_and_the_loop_adds_the_load_balancing_loss(tmp_path):
    losses = []
    for name, balance in (("none", 0.0), ("much", 5.0)):
        run = start(tmp_path / name, with_experts(tmp_path, balance=balance))
        outcome = train(run)
        losses.append([line["loss"] for line in run.metrics() if "loss" in line])
        assert outcome.validation.nats_per_token < 0.75 * losses[-1][0]
    assert losses[0][0] == losses[1][0]  # the reported loss does not include it
    assert losses[0][5] != losses[1][5]


def test_it_is_read_from_and_written_to_configs():
    config = ModelConfig(WIDTH, (BlockConfig(None, MoEConfig(4, experts=3)), BlockConfig(None, MLPConfig(5))))
    assert decode(ModelConfig, encode(config, CHOICES), CHOICES) == config
    plain = {"width": WIDTH, "blocks": [{"mlp": {"kind": "moe", "hidden": 4, "experts": 3}}, {"mlp": {"hidden": 5}}]}
    assert decode(ModelConfig, plain, CHOICES) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 0}, "experts: expected at least 1, got 0"),
        ({"experts": 4, "active": 5}, "active: expected 1 to 4 experts, got 5"),
        ({"shared": -1}, "shared: expected 0 or more, got -1"),
        ({"balance": -1.0}, "balance: expected 0 or more, got -1.0"),
        ({"bias": True}, "bias: expected False, for experts have no biases, got True"),
        ({"hidden": 0}, "hidden: expected at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        MoEConfig(**options)
