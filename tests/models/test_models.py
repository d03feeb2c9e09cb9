"""Models: presets, counts, initialisation, and state, padding and documents through all blocks."""

import dataclasses
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from matrixstate.errors import ConfigError, ShapeError
from matrixstate.layers import MLPConfig
from matrixstate.mixers import AttentionConfig, GatedConvConfig, M2RNNConfig, MRUConfig
from matrixstate.models import PRESETS, BlockConfig, LanguageModel, ModelConfig, count, preset

PARAMETERS = {  # all, and without embeddings; with a vocabulary of 65 where the preset has none
    "shakespeare-mru": (8_879_616, 8_854_656),
    "shakespeare-m2rnn": (9_942_816, 9_917_856),
    "shakespeare-attention": (10_745_088, 10_621_824),
    "shakespeare-conv": (12_439_296, 12_414_336),
    "shakespeare-mlp": (7_105_536, 7_080_576),
    "shakespeare-mru-small": (805_152, 796_832),
    "shakespeare-m2rnn-small": (802_432, 794_112),
    "shakespeare-attention-small": (804_096, 787_584),
    "shakespeare-conv-small": (801_024, 792_704),
    "shakespeare-mlp-small": (803_584, 795_264),
    "single-mru": (2_246_656, 2_230_016),
    "single-attention": (2_377_472, 2_360_832),
    "single-mlp": (2_115_072, 2_098_432),
    "tinystories-33m-attention": (68_488_704, 28_318_464),
    "tinystories-33m-mru": (62_200_320, 23_602_944),
    "m2rnn-410m": (513_497_024, 307_976_128),
    "hybrid-m2rnn-410m": (512_951_624, 307_430_728),
    "hybrid-gated-deltanet-410m": (509_402_708, 303_881_812),
    "hybrid-gated-deltanet-410m-one-m2rnn": (509_571_704, 304_050_808),
    "hybrid-gated-deltanet-410m-three-m2rnn": (509_909_696, 304_388_800),
    "hybrid-mamba2-410m": (510_368_624, 304_847_728),
    "hybrid-mamba2-410m-one-m2rnn": (510_491_624, 304_970_728),
    "hybrid-mamba2-410m-three-m2rnn": (510_737_624, 305_216_728),
    "hybrid-m2rnn-7b-moe": (6_948_251_800, 6_639_970_456),
    "hawk-100m": (93_752_832, 93_702_912),
    "griffin-100m": (89_263_616, 89_213_696),
    "recurrentgemma-2b": (2_682_862_080, 2_027_502_080),
    "recurrentgemma-9b": (8_579_977_216, 7_531_401_216),
    "samba-laptop": (2_981_376, 2_968_896),
    "yoco-laptop": (2_521_728, 2_509_248),
    "m2rnn-laptop": (9_713_784, 9_697_144),
    "hybrid-m2rnn-laptop": (9_662_682, 9_646_042),
    "hybrid-gated-deltanet-laptop": (9_538_212, 9_521_572),
    "hybrid-gated-deltanet-laptop-one-m2rnn": (9_552_042, 9_535_402),
    "hybrid-gated-deltanet-laptop-three-m2rnn": (9_579_702, 9_563_062),
    "hybrid-mamba2-laptop": (9_558_732, 9_542_092),
    "hybrid-mamba2-laptop-one-m2rnn": (9_570_282, 9_553_642),
    "hybrid-mamba2-laptop-three-m2rnn": (9_593_382, 9_576_742),
    "shakespeare-attention-one-mru": (10_450_560, 10_327_296),
    "shakespeare-attention-one-m2rnn": (10_627_760, 10_504_496),
}


def with_vocabulary(config, size=65):
    return dataclasses.replace(config, vocabulary=config.vocabulary or size)


def hybrid(**options):
    """Every kind of block in one small model."""
    mlp = MLPConfig(hidden=20)
    blocks = (
        BlockConfig(MRUConfig(heads=1, state_size=9, channels=12), mlp),
        BlockConfig(M2RNNConfig(heads=4, key_size=3, value_size=5), MLPConfig(hidden=10, activation="swiglu")),
        BlockConfig(None, mlp),
        BlockConfig(AttentionConfig(heads=3, positions="rotary"), None),
        BlockConfig(GatedConvConfig(channels=8), mlp),
    )
    return ModelConfig(width=12, blocks=blocks, vocabulary=17, **options)


def make(config, seed=0):
    torch.manual_seed(seed)
    model = LanguageModel(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def test_the_parameters_of_every_preset_are_listed():
    assert PARAMETERS.keys() == PRESETS.keys()


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_presets(name):
    counts = count(with_vocabulary(preset(name)), 64)
    assert (counts.parameters, counts.parameters_without_embeddings) == PARAMETERS[name]


def test_small_presets_are_matched_within_two_percent():
    counts = [n for name, (n, _) in PARAMETERS.items() if name.endswith("-small")]
    assert max(counts) / min(counts) < 1.02


def test_counts_agree_with_the_model():
    config = hybrid(learned_positions=9, tied=False)
    counts, model = count(config, 7), LanguageModel(config)
    assert counts.parameters == sum(p.numel() for p in model.parameters())
    tables = model.embedding.weight.numel() + model.head.weight.numel() + 9 * 12
    assert counts.parameters - counts.parameters_without_embeddings == tables


@pytest.mark.parametrize("name", ["shakespeare-mru-small", "shakespeare-m2rnn-small", "shakespeare-attention-small"])
def test_flops_agree_with_those_that_pytorch_counts(name):
    config, T = with_vocabulary(preset(name)), 32
    model, tokens = LanguageModel(config), torch.zeros(1, T, dtype=torch.int64)
    model(tokens)  # a compiled op registers its FLOPs when it is first used
    with FlopCounterMode(display=False) as counter:
        model(tokens)
    expected = counter.get_total_flops() / T
    # PyTorch counts matrix products only, and attention without its mask; we count convolutions and gates too
    assert count(config, T).flops_per_token == pytest.approx(expected, rel=0.06)


def test_the_last_projection_of_every_branch_is_scaled():
    torch.manual_seed(0)
    model = LanguageModel(ModelConfig(128, (BlockConfig(AttentionConfig(), MLPConfig(), repeat=4),), 65))
    for block in model.layers:
        for branch in (block.mixer, block.mlp):
            assert branch.output.weight.std().item() == pytest.approx(0.02 / math.sqrt(8), rel=0.05)
            assert branch.input.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_loss_of_a_new_model_is_that_of_a_uniform_guess():
    model = LanguageModel(hybrid())
    logits, _ = model(torch.randint(17, (4, 9)))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(17, (36,)))
    assert loss.item() == pytest.approx(math.log(17), abs=0.1)


SCALED = {"learned_positions": 12, "tied": False, "norm": "rms", "embedding_scale": 3.0, "logit_cap": 2.0}


@pytest.mark.parametrize("options", [{}, SCALED], ids=str)
def test_state_padding_and_documents_pass_through_all_blocks(options):
    model = make(hybrid(**options))
    tokens, reset = torch.randint(17, (3, 12)), torch.zeros(3, 12, dtype=torch.bool)
    reset[:, 7] = True
    real = torch.tensor([[1] * 12, [0] * 5 + [1] * 7, [1] * 9 + [0] * 3]).bool()
    logits, _ = model(tokens, mask=real, reset=reset)
    for b in range(3):
        alone = tokens[b : b + 1, real[b]]
        expected, _ = model(alone, reset=reset[b : b + 1, real[b]])
        torch.testing.assert_close(logits[b : b + 1, real[b]], expected)
    first, state = model(tokens[:, :5], mask=real[:, :5], reset=reset[:, :5])
    rest, _ = model(tokens[:, 5:], state, mask=real[:, 5:], reset=reset[:, 5:])
    both = torch.cat([first, rest], dim=1)
    torch.testing.assert_close(both[real], logits[real])


def test_a_scale_of_the_embedding_and_a_cap_of_the_logits():
    plain, scaled = make(hybrid()), make(hybrid(embedding_scale=3.0, logit_cap=2.0))
    tokens = torch.randint(17, (2, 6))
    features, _ = scaled.features(tokens)
    with torch.no_grad():
        plain.embedding.weight *= 3
    torch.testing.assert_close(plain.features(tokens)[0], features)
    z = features @ scaled.embedding.weight.T
    torch.testing.assert_close(scaled(tokens)[0], 2 * torch.tanh(z / 2))


def test_the_initial_state_is_the_default_state():
    model = make(hybrid())
    tokens = torch.randint(17, (2, 6))
    torch.testing.assert_close(model(tokens, model.init_state(2))[0], model(tokens)[0])


def test_swapping_one_layer_does_not_change_the_others():
    config = preset("shakespeare-attention")
    swapped = config.swap(3, M2RNNConfig())
    kinds = [type(block.mixer) for block in swapped.layers]
    assert kinds == [AttentionConfig] * 3 + [M2RNNConfig] + [AttentionConfig] * 2
    with pytest.raises(ConfigError, match="layer: expected 0 to 5, got 6"):
        config.swap(6, None)


def test_the_papers_hybrid_has_attention_in_the_papers_layers():
    config = preset("hybrid-m2rnn-410m")
    assert [i for i, b in enumerate(config.layers) if isinstance(b.mixer, AttentionConfig)] == [4, 12, 20]
    assert count(config, 4096).state_bytes < 0.2 * 3 * 8 * count(config, 4096).parameters  # an upper bound by far


@pytest.mark.parametrize("name", ["gated-deltanet", "mamba2"])
def test_the_papers_hybrids_have_m2rnn_in_the_papers_layers(name):
    for swapped, places in (("one", [0]), ("three", [3, 11, 19])):
        layers = preset(f"hybrid-{name}-410m-{swapped}-m2rnn").layers
        assert [i for i, b in enumerate(layers) if isinstance(b.mixer, M2RNNConfig)] == places
        assert [i for i, b in enumerate(layers) if isinstance(b.mixer, AttentionConfig)] == [4, 12, 20]


def test_one_of_the_seven_billion_parameters_of_the_papers_mixture_is_active():
    config = preset("hybrid-m2rnn-7b-moe")
    assert [i for i, b in enumerate(config.layers) if isinstance(b.mixer, AttentionConfig)] == [4, 12, 20, 28, 36]
    output = 1536 * 100_352
    assert count(config, 64).active_parameters + output == 1_131_800_728


def test_dropout_is_active_in_training_only():
    model = LanguageModel(hybrid(dropout=0.5))
    tokens = torch.randint(17, (2, 6))
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[3, 17]]), "tokens must be below 17, got 17"),
        (torch.tensor([[-1, 3]]), "tokens must be below 17, got -1"),
        (torch.tensor([3, 4]), r"tokens must be torch.int64 \[B, T\], got torch.int64 \[2\]"),
        (torch.tensor([[0.5]]), r"tokens must be torch.int64 \[B, T\], got torch.float32"),
        ([[1, 2]], r"tokens must be torch.int64 \[B, T\], got list"),
    ],
)
def test_wrong_tokens_are_refused(tokens, message):
    with pytest.raises(ShapeError, match=message):
        LanguageModel(hybrid())(tokens)


def test_the_state_of_another_model_is_refused():
    model, other = LanguageModel(hybrid()), LanguageModel(ModelConfig(12, (BlockConfig(None, MLPConfig()),), 17))
    with pytest.raises(ShapeError, match="state must hold 5 blocks, got 1"):
        model(torch.zeros(1, 1, dtype=torch.int64), other.init_state(1))
    for mixer, other in ((MRUConfig(heads=1, state_size=9), "AttentionMixerState"), (None, "AttentionMixerState")):
        model = LanguageModel(ModelConfig(12, (BlockConfig(mixer, MLPConfig()),), 17))
        state = LanguageModel(ModelConfig(12, (BlockConfig(AttentionConfig(heads=1)),), 17)).init_state(1)
        with pytest.raises(ShapeError, match=f"state of block 0 must be (MRUState|NoneType), got {other}"):
            model(torch.zeros(1, 1, dtype=torch.int64), state)
    with pytest.raises(ShapeError, match="state must be a ModelState, got int"):
        model(torch.zeros(1, 1, dtype=torch.int64), 3)


@pytest.mark.parametrize(
    "config", [hybrid(), ModelConfig(12, (BlockConfig(None, MLPConfig()),), 17)], ids=["hybrid", "mlp"]
)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"mask must be torch.bool \[2, 5\], got torch.bool \[2, 4\]"),
        ({"mask": torch.ones(5, dtype=torch.bool)}, r"mask must be torch.bool \[2, 5\], got torch.bool \[5\]"),
        ({"reset": torch.ones(2, 4, dtype=torch.bool)}, r"reset must be torch.bool \[2, 5\], got torch.bool \[2, 4\]"),
        (
            {"reset": torch.ones(2, 5, dtype=torch.int64)},
            r"reset must be torch.bool \[2, 5\], got torch.int64 \[2, 5\]",
        ),
        ({"reset": 1}, r"reset must be torch.bool \[2, 5\], got int"),
        ({"state": 3}, "state must be of 2 rows, got 3"),
    ],
)
def test_wrong_flags_and_rows_are_refused_whatever_the_mixers(config, options, message):
    model = LanguageModel(config)
    options = {**options, "state": model.init_state(options["state"])} if "state" in options else options
    with pytest.raises(ShapeError, match=f"LanguageModel: {message}"):
        model(torch.zeros(2, 5, dtype=torch.int64), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "rmsnorm"}, "norm: expected one of layer, rms, got 'rmsnorm'"),
        ({"width": 0}, "width: expected at least 1, got 0"),
        ({"blocks": ()}, "blocks: expected at least one block, got none"),
        ({"vocabulary": 1}, "vocabulary: expected 2 or more, got 1"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
        ({"blocks": (BlockConfig(AttentionConfig(heads=5)),)}, "blocks.0.attention: width must be a multiple of heads"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(hybrid(), **options)


def test_a_block_needs_a_mixer_or_an_mlp():
    with pytest.raises(ConfigError, match="mixer: expected a mixer or an mlp, got neither"):
        BlockConfig()


def test_a_model_needs_a_vocabulary():
    with pytest.raises(ConfigError, match="vocabulary: expected the number of tokens, got None"):
        LanguageModel(dataclasses.replace(hybrid(), vocabulary=None))
