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
    GatedDeltaNet2Config,
    GSAConfig,
    HGRN2Config,
    KDAConfig,
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


def as_hgrn2(find, q, k, v, log_decay, **rest):
    run = find("gla.naive", "naive_recurrent_gla")
    return run(q * math.sqrt(q.shape[-1]), k, v, log_decay, output_final_state=True)  # it divides q by √K


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
        (HGRN2Config(**SIZES), "outer_scan", as_hgrn2),
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
    module = sys.modules[type(mixer).__module__]
    calls = []

    def plain(q, k, v, *more, **named):
        calls.append(op)
        given = dict(zip(("beta", "log_decay"), more, strict=False)) | named
        return form(fla, q, k, v, **given)

    monkeypatch.setattr(module, op, plain)
    y, state = mixer(x)
    assert calls == [op]
    assert_equal_to_rounding(y, expected, "y")
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
