"""What mixers give to their ops, given to the plain forms of flash-linear-attention instead, gives the same."""

import math
import os
import sys
import warnings
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from stepwise import SIZES, WIDTH, T, perturbed
from torch.nn.functional import logsigmoid

from closeness import assert_equal_to_rounding
from matrixstate.mixers import (
    ABCConfig,
    CombaConfig,
    DeltaNetConfig,
    ForgettingAttentionConfig,
    GatedDeltaNet2Config,
    GatedDeltaNetConfig,
    GatedDeltaProductConfig,
    GLAConfig,
    GSAConfig,
    HGRN2Config,
    HGRNConfig,
    KDAConfig,
    LinearTransformerConfig,
    RetNetConfig,
    RWKV6Config,
    RWKV7Config,
)


@pytest.fixture(scope="module")
def fla():
    """A plain form of flash-linear-attention by its module and name."""
    if find_spec("fla") is None:
        if "fla" in os.environ.get("MATRIXSTATE_TEST_BACKENDS", "").split(","):
            pytest.fail("fla must run here: fla is not installed")
        pytest.skip("fla is not installed")

    def find(module, name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that there is no GPU, and loads what PyTorch deprecates
            return getattr(import_module(f"fla.ops.{module}"), name)

    return find


def heads_first(*tensors):
    return [a.transpose(1, 2) for a in tensors]


def as_gla(find, q, k, v, log_decay, **rest):
    run = find("gla.naive", "naive_recurrent_gla")
    return run(q * math.sqrt(q.shape[-1]), k, v, log_decay, output_final_state=True)  # it divides q by √K


def as_retnet(find, q, k, v, **rest):
    """With the decays of its own."""
    y = find("retention.naive", "naive_retention")(*heads_first(q * math.sqrt(q.shape[-1]), k, v))
    return y.transpose(1, 2), None


def as_linear_attention(find, q, k, v, **rest):
    run = find("linear_attn.naive", "naive_recurrent_linear_attn")
    y, (state, sums) = run(q, k, v, scale=1.0, normalize=True, output_final_state=True)
    return y, torch.cat([state, sums.transpose(1, 2).mT], dim=-1)


def as_forgetting(find, q, k, v, log_forget, window, **rest):
    return find("forgetting_attn.naive", "naive_forgetting_attn")(q, k, v, log_forget, window_size=window), None


def as_hgrn(find, q, log_decay, **rest):
    return find("hgrn.naive", "naive_recurrent_hgrn")(q, log_decay, output_final_state=True)


def as_deltanet(find, q, k, v, beta, **rest):
    y, state = find("delta_rule.naive", "delta_rule_recurrence")(*heads_first(q * math.sqrt(q.shape[-1]), k, v, beta))
    return y.transpose(1, 2), state


def as_gdn(find, q, k, v, beta, log_decay, **rest):
    run = find("gated_delta_rule.naive", "naive_recurrent_gated_delta_rule")
    return run(q, k, v, beta, log_decay, scale=1.0, output_final_state=True)


def as_deltaproduct(find, q, k, v, beta, log_decay, micro_steps, **rest):
    run = find("gated_delta_product.naive", "naive_recurrent_gated_delta_product")
    return run(q, k, v, log_decay, beta, scale=1.0, num_householder=micro_steps)


def as_rwkv6(find, q, k, v, log_decay, bonus, **rest):
    run = find("rwkv6.recurrent_naive", "naive_recurrent_rwkv6")
    y, state = run(*heads_first(q, k, v, log_decay), bonus, scale=1.0, output_final_state=True)
    return y.transpose(1, 2), state


def as_rwkv7(find, q, k, v, read, write, log_decay, **rest):
    run = find("generalized_delta_rule.dplr.naive", "dplr_recurrence")
    y, state = run(*heads_first(q * math.sqrt(q.shape[-1]), k, v, read, write, log_decay))  # it divides q by √K
    return y.transpose(1, 2), state


def as_kda(find, q, k, v, beta, log_decay, **rest):
    return find("kda.naive", "naive_recurrent_kda")(q, k, v, log_decay, beta, scale=1.0, output_final_state=True)


def as_gdn2(find, q, k, v, read, log_decay, **rest):
    run = find("gdn2.naive", "naive_recurrent_gdn2")
    erased = read * torch.exp(-log_decay) / k
    return run(q, k, v, log_decay, erased, torch.ones_like(v), scale=1.0, output_final_state=True)


def as_comba(find, q, k, v, read, log_decay, **rest):
    run = find("comba.naive", "naive_recurrent_comba")
    # k is β times a unit vector here
    beta = k.norm(dim=-1)
    p = read / log_decay.exp()[..., None]
    return run(q, k / beta[..., None], v, p, beta, log_decay, scale=1.0, output_final_state=True)


@pytest.mark.parametrize(
    ("config", "op", "form"),
    [
        (GLAConfig(**SIZES), "outer_scan", as_gla),
        (HGRN2Config(**SIZES), "outer_scan", as_gla),
        (RetNetConfig(heads=2, key_size=4, value_size=3), "outer_scan", as_retnet),
        (LinearTransformerConfig(**SIZES), "linear_attention", as_linear_attention),
        (ForgettingAttentionConfig(heads=2, window=4), "attention", as_forgetting),
        (HGRNConfig(), "linear_scan", as_hgrn),
        (DeltaNetConfig(**SIZES), "gated_delta_product", as_deltanet),
        (GatedDeltaNetConfig(**SIZES), "gated_delta_product", as_gdn),
        (GatedDeltaProductConfig(**SIZES, micro_steps=3), "gated_delta_product", as_deltaproduct),
        (RWKV6Config(**SIZES), "outer_scan", as_rwkv6),
        (RWKV7Config(**SIZES), "delta_scan", as_rwkv7),
        (KDAConfig(**SIZES), "gated_delta_rule", as_kda),
        (GatedDeltaNet2Config(**SIZES), "delta_scan", as_gdn2),
        (CombaConfig(**SIZES), "delta_scan", as_comba),
    ],
    ids=lambda part: getattr(part, "__name__", None),
)
@torch.no_grad()
def test_the_plain_forms_of_flash_linear_attention_give_the_same(config, op, form, fla, monkeypatch):
    mixer = perturbed(config, torch.float32)
    x = torch.randn(2, T, WIDTH)
    expected, last = mixer(x)
    calls = []

    def plain(*inputs, **named):
        calls.append(op)
        return form(fla, **dict(zip(("q", "k", "v", "beta", "log_decay"), inputs, strict=False)) | named)

    for module in {kind.__module__ for kind in type(mixer).__mro__}:
        if hasattr(sys.modules[module], op):
            monkeypatch.setattr(sys.modules[module], op, plain)
    y, state = mixer(x)
    assert calls == [op]
    assert_equal_to_rounding(y, expected, "y")
    if getattr(state, "scan", None) is not None:  # some forms return the outputs only
        assert_equal_to_rounding(state.scan, last.scan, "state")


def as_gsa(find, q, k, v, logits):
    decay = logsigmoid(logits) / 8
    run = find("gsa.naive", "naive_recurrent_gsa")
    return run(q, k, v, 1 - decay.exp(), decay, scale=1.0, output_final_state=True)


def as_abc(find, q, k, v, logits):
    run = find("abc.naive", "naive_recurrent_abc")
    y, state = run(*heads_first(q, k, v, logits), scale=1.0, output_final_state=True)
    return y.transpose(1, 2), state


def as_abc_by_sums(find, q, k, v, logits):
    run = find("abc.naive", "naive_cumsum_abc")
    y, _ = run(*heads_first(q * math.sqrt(q.shape[-1]), k, v, logits))  # it divides q by √K
    return y.transpose(1, 2), None


@pytest.mark.parametrize(
    ("config", "form"),
    [
        (GSAConfig(**SIZES, slots=5), as_gsa),
        (ABCConfig(**SIZES, slots=5), as_abc),
        (ABCConfig(**SIZES, slots=5), as_abc_by_sums),
    ],
    ids=lambda part: getattr(part, "__name__", None),
)
@torch.no_grad()
def test_slots_are_written_and_read_as_in_flash_linear_attention(config, form, fla):
    mixer = perturbed(config, torch.float32)
    x = torch.randn(2, T, WIDTH)
    (q, k, v), _ = mixer.inputs(x, None, None, None)
    logits = mixer.slots(x).unflatten(-1, (config.heads, config.slots))
    y, slots = form(fla, *mixer.features(q, k, v), logits)
    expected, last = mixer(x)
    assert_equal_to_rounding(mixer.output(mixer.read(y, x)), expected, "y")
    if slots is not None:
        assert_equal_to_rounding(slots[0], last.keys, "keys")
        assert_equal_to_rounding(slots[1], last.values, "values")
