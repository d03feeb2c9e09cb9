"""Layers that read the keys and values of an earlier one."""

import pytest
import torch

from closeness import assert_equal_to_rounding
from matrixstate.errors import ConfigError, ShapeError
from matrixstate.evaluation.equivalence import certify
from matrixstate.layers import MLPConfig
from matrixstate.mixers import AttentionConfig, GatedConvConfig, SharedAttention, SharedAttentionConfig
from matrixstate.models import BlockConfig, LanguageModel, ModelConfig

OWN, READS = (SharedAttentionConfig(heads=2, key_heads=1, positions="rotary", own=own) for own in (True, False))


def decoder_decoder():
    blocks = (BlockConfig(GatedConvConfig(channels=6), MLPConfig(9)), BlockConfig(OWN), BlockConfig(READS, repeat=2))
    return LanguageModel(ModelConfig(width=12, blocks=blocks, vocabulary=13))


def test_alone_it_is_attention():
    mixer = SharedAttention(12, OWN).double()
    plain = AttentionConfig(heads=2, key_heads=1, positions="rotary").make(12).double()
    with torch.no_grad():
        plain.input.weight.copy_(torch.cat([mixer.query.weight, mixer.keys.weight]))
        plain.output.weight.copy_(mixer.output.weight)
    x, reset = torch.randn(2, 9, 12, dtype=torch.float64), torch.rand(2, 9) < 0.3
    assert_equal_to_rounding(mixer(x, reset=reset)[0], plain(x, reset=reset)[0], "y")


def test_later_layers_read_the_keys_of_the_first():
    """Their queries attend as if they had its input, and its maps of keys, themselves."""
    model = decoder_decoder().double()
    tokens = torch.randint(13, (2, 9))
    seen = {}
    for name in ("own", "first", "second"):
        block = model.layers[1 + ("own", "first", "second").index(name)]
        block.mixer.register_forward_hook(lambda _, args, result, name=name: seen.update({name: (args[0], result[0])}))
    model(tokens)
    source = model.layers[1].mixer
    for layer, name in ((2, "first"), (3, "second")):
        mixer = model.layers[layer].mixer
        stand_in = SharedAttention(12, OWN).double()
        stand_in.query, stand_in.keys, stand_in.output = mixer.query, source.keys, mixer.output
        keys = source.share(seen["own"][0], None, None, None)
        assert_equal_to_rounding(seen[name][1], stand_in(seen[name][0], shared=keys)[0], name)


def test_all_ways_agree_and_one_cache_serves_all():
    model = decoder_decoder()
    rows = certify(model, torch.randint(13, (2, 16)), compiled=False)
    assert all(row.passes for row in rows), rows
    _, state = model(torch.randint(13, (2, 16)))
    assert state.blocks[1].cache.k.shape == (2, 16, 1, 6)
    assert state.blocks[2:] == (None, None)
    assert [block.mixer.state_bytes(16) for block in model.layers[1:]] == [8 * 16 * 6 + 16, 0, 0]


def test_recomputation_changes_no_gradient():
    model, tokens = decoder_decoder().double(), torch.randint(13, (2, 9))
    found = []
    for model.recompute in (False, True):
        logits, _ = model(tokens)
        found.append(torch.autograd.grad(logits.square().sum(), list(model.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_without_an_earlier_layer_that_fits_it_is_refused():
    with pytest.raises(ConfigError, match="blocks.0.mixer.own: expected true, or an earlier shared_attention with it"):
        ModelConfig(width=12, blocks=(BlockConfig(READS), BlockConfig(OWN)))
    other = SharedAttentionConfig(heads=3, key_heads=1, own=False)
    expected = (
        "blocks.1.mixer.heads: expected 2 as the layer has whose keys are read, got 3.*"
        "blocks.1.mixer.positions: expected 'rotary' as the layer has whose keys are read, got 'none'"
    )
    with pytest.raises(ConfigError, match=f"(?s){expected}"):
        ModelConfig(width=12, blocks=(BlockConfig(OWN), BlockConfig(other)))
    with pytest.raises(ShapeError, match="expected the keys of an earlier layer"):
        SharedAttention(12, READS)(torch.randn(1, 3, 12))
