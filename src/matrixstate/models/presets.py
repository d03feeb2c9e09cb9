"""Named models: the sizes of the papers and repositories, smaller ones of the same shapes, and one-layer swaps."""

import math
from collections.abc import Callable
from functools import partial

from matrixstate.layers import MixerConfig, MLPConfig, MoEConfig
from matrixstate.mixers import (
    AttentionConfig,
    GatedConvConfig,
    GatedDeltaNetConfig,
    M2RNNConfig,
    Mamba2Config,
    MambaConfig,
    MRUConfig,
    RGLRUConfig,
    SharedAttentionConfig,
)
from matrixstate.models.config import BlockConfig, ModelConfig

Make = Callable[[], ModelConfig]


def _stack(width: int, depth: int, mixer: MixerConfig | None, hidden: int | None = None, **options) -> ModelConfig:
    """`depth` equal blocks of a mixer and an MLP. hidden: of the MLP; default four times the width."""
    return ModelConfig(width=width, blocks=(BlockConfig(mixer, MLPConfig(hidden), repeat=depth),), **options)


def _single(mixer: MixerConfig | None, **options) -> ModelConfig:
    """One mixer and four MLPs of width 256. Source: the article on mru-lm."""
    blocks = (BlockConfig(mixer, MLPConfig()), BlockConfig(None, MLPConfig(), repeat=3))
    return ModelConfig(width=256, blocks=blocks, **options)


# Shakespeare in the sizes of mru-lm, config/shakespeare-char: 6 blocks, width 384, 6 heads, dropout 0.2.
_shakespeare = partial(_stack, 384, 6, dropout=0.2)
_MRU_384 = MRUConfig(heads=6)
_M2RNN_384 = M2RNNConfig(heads=24)

# The options with the lowest loss at a small budget: docs/shakespeare.md.
MRU_BEST = MRUConfig(
    heads=4,
    state_size=256,
    channels=256,
    builder="cayley",
    rescale=False,
    readout="state",
    decay=True,
    write=True,
    skip=True,
    gate=True,
    norm=True,
)
M2RNN_BEST = M2RNNConfig(heads=16, key_size=8, value_size=16, unit_keys=True, input_std=0.088)

# The 410M models of the M²RNN paper: 24 blocks of width 1024, SwiGLU of 2752, untied embeddings. In the hybrids the
# layers 4, 12 and 20 are attention; a single M²RNN layer is layer 0, three are those before the attention.
# Source: lm-engine, configs/research/m2rnn.
_M2RNN_PAPER = M2RNNConfig(heads=84, key_size=64, value_size=16, grad_clip=1.0)
_GATED_DELTANET_PAPER = GatedDeltaNetConfig(heads=2, key_size=256, value_size=512)
_MAMBA2_PAPER = Mamba2Config(heads=64, key_size=216, value_size=19)


def _hybrid(
    mixer: MixerConfig, others: dict[MixerConfig, tuple[int, ...]], depth: int, hidden: int, **options
) -> ModelConfig:
    """`depth` blocks of `mixer` and a SwiGLU MLP, with the `others` in place of `mixer` at the layers they map to."""
    at = {layer: other for other, layers in others.items() for layer in layers}
    blocks = tuple(BlockConfig(at.get(layer, mixer), MLPConfig(hidden, "swiglu")) for layer in range(depth))
    return ModelConfig(blocks=blocks, norm="rms", **options)


def _paper_410m(
    mixer: MixerConfig, attention: tuple[int, ...] = (4, 12, 20), m2rnn: tuple[int, ...] = ()
) -> ModelConfig:
    others = {AttentionConfig(heads=16): attention, _M2RNN_PAPER: m2rnn}
    return _hybrid(mixer, others, 24, 2752, width=1024, vocabulary=100_352, tied=False)


def _paper_7b() -> ModelConfig:
    """The paper's mixture of experts: 40 blocks of width 1536, 8 of 128 experts per token and a shared one."""
    mlp = MoEConfig(256, "swiglu", experts=128, active=8, shared=1024)
    m2rnn = M2RNNConfig(heads=132, key_size=64, value_size=16, grad_clip=1.0)
    mixers = [AttentionConfig(heads=24) if i % 8 == 4 else m2rnn for i in range(40)]
    blocks = tuple(BlockConfig(mixer, mlp) for mixer in mixers)
    return ModelConfig(1536, blocks, 100_352, norm="rms", tied=False)


# The 410M models at a quarter of the width and half the depth, for a laptop.
_M2RNN_LAPTOP = M2RNNConfig(heads=21, key_size=16, value_size=16, grad_clip=1.0)
_GATED_DELTANET_LAPTOP = GatedDeltaNetConfig(heads=2, key_size=64, value_size=128)
_MAMBA2_LAPTOP = Mamba2Config(heads=16, key_size=54, value_size=19)


def _laptop(mixer: MixerConfig, attention: tuple[int, ...] = (2, 6, 10), m2rnn: tuple[int, ...] = ()) -> ModelConfig:
    return _hybrid(mixer, {AttentionConfig(heads=4): attention, _M2RNN_LAPTOP: m2rnn}, 12, 688, width=256)


# TinyStories-33M: GPT-Neo's shape, and mru-lm's config/tinystories (4 blocks, width 768, 12 heads).
_tinystories = partial(_stack, 768, 4, vocabulary=50_257)

# Griffin's smallest size: 12 blocks of width 768, gated MLPs of three times the width, recurrences of 1,024 channels;
# one block in three is local attention. Hawk has recurrences alone. Source: De et al. 2024, table 1.
_RG_LRU = RGLRUConfig(channels=1024, heads=16)
_LOCAL = AttentionConfig(heads=6, key_heads=1, window=1024, positions="rotary")


def _griffin(layout: tuple[MixerConfig, ...]) -> ModelConfig:
    blocks = tuple(BlockConfig(mixer, MLPConfig(2304, "geglu")) for mixer in layout)
    return ModelConfig(width=768, blocks=blocks, norm="rms")


def _recurrentgemma(width: int, heads: int, layout: tuple[str, ...]) -> ModelConfig:
    """RecurrentGemma: Griffin as published, with biases. r: a recurrence, a: attention over 2,048 steps.

    Sources: Botev et al. 2024, "RecurrentGemma"; biases and the half of the channels that rotates are of its code,
    which adds 1e-6 in its norms where ours add 1e-5.
    """
    mlp = MLPConfig(3 * width, "geglu_tanh", bias=True)
    half = width // heads // 2
    local = AttentionConfig(heads, 1, window=2048, positions="rotary", rotary_channels=half, output_bias=True)
    mixers = {"r": RGLRUConfig(heads=heads, bias=True), "a": local}
    return ModelConfig(
        width=width,
        blocks=tuple(BlockConfig(mixers[kind], mlp) for kind in layout),
        vocabulary=256_000,
        norm="rms",
        embedding_scale=math.sqrt(width),
        logit_cap=30.0,
    )


def _samba() -> ModelConfig:
    """Mamba and sliding-window attention in turns, each with an MLP: Ren et al. 2024, "Samba", at a laptop's size."""
    windowed = AttentionConfig(heads=4, window=64, positions="rotary")
    blocks = tuple(BlockConfig(mixer, MLPConfig(512, "swiglu")) for mixer in (MambaConfig(), windowed))
    return ModelConfig(width=192, blocks=3 * blocks, norm="rms")


def _yoco() -> ModelConfig:
    """Sliding windows, then layers that read one cache: Sun et al. 2024, "You Only Cache Once", at a laptop's size."""
    mlp, windowed = MLPConfig(512, "swiglu"), AttentionConfig(heads=4, window=64, positions="rotary")
    first, later = (SharedAttentionConfig(heads=4, positions="rotary", own=own) for own in (True, False))
    blocks = (BlockConfig(windowed, mlp, repeat=3), BlockConfig(first, mlp), BlockConfig(later, mlp, repeat=2))
    return ModelConfig(width=192, blocks=blocks, norm="rms")


PRESETS: dict[str, Make] = {
    "shakespeare-mru": partial(_shakespeare, _MRU_384),
    "shakespeare-m2rnn": partial(_shakespeare, _M2RNN_384),
    "shakespeare-attention": partial(_shakespeare, AttentionConfig(heads=6), learned_positions=256),
    "shakespeare-conv": partial(_shakespeare, GatedConvConfig()),
    "shakespeare-mlp": partial(_shakespeare, None),
    # Matched in parameters: within 2 % of 804,000 with a vocabulary of 65 to 100 characters.
    "shakespeare-mru-small": partial(_stack, 128, 4, MRU_BEST, 328),
    "shakespeare-m2rnn-small": partial(_stack, 128, 4, M2RNN_BEST, 352),
    "shakespeare-attention-small": partial(_stack, 128, 4, AttentionConfig(heads=4), 512, learned_positions=64),
    "shakespeare-conv-small": partial(_stack, 128, 4, GatedConvConfig(), 384),
    "shakespeare-mlp-small": partial(_stack, 128, 4, None, 776),
    "single-mru": partial(_single, MRUConfig(heads=4)),
    "single-attention": partial(_single, AttentionConfig(heads=4, positions="xpos")),
    "single-mlp": partial(_single, None),
    "tinystories-33m-attention": partial(_tinystories, AttentionConfig(heads=16), learned_positions=2048),
    "tinystories-33m-mru": partial(_tinystories, MRUConfig(heads=12)),
    "m2rnn-410m": partial(_paper_410m, _M2RNN_PAPER, ()),
    "hybrid-m2rnn-410m": partial(_paper_410m, _M2RNN_PAPER),
    "hybrid-gated-deltanet-410m": partial(_paper_410m, _GATED_DELTANET_PAPER),
    "hybrid-gated-deltanet-410m-one-m2rnn": partial(_paper_410m, _GATED_DELTANET_PAPER, m2rnn=(0,)),
    "hybrid-gated-deltanet-410m-three-m2rnn": partial(_paper_410m, _GATED_DELTANET_PAPER, m2rnn=(3, 11, 19)),
    "hybrid-mamba2-410m": partial(_paper_410m, _MAMBA2_PAPER),
    "hybrid-mamba2-410m-one-m2rnn": partial(_paper_410m, _MAMBA2_PAPER, m2rnn=(0,)),
    "hybrid-mamba2-410m-three-m2rnn": partial(_paper_410m, _MAMBA2_PAPER, m2rnn=(3, 11, 19)),
    "hybrid-m2rnn-7b-moe": _paper_7b,
    "hawk-100m": partial(_griffin, 12 * (_RG_LRU,)),
    "griffin-100m": partial(_griffin, 4 * (_RG_LRU, _RG_LRU, _LOCAL)),
    "recurrentgemma-2b": partial(_recurrentgemma, 2560, 10, (*8 * "rra", *"rr")),
    "recurrentgemma-9b": partial(_recurrentgemma, 4096, 16, (*12 * "rra", *"rr")),
    "samba-laptop": _samba,
    "yoco-laptop": _yoco,
    "m2rnn-laptop": partial(_laptop, _M2RNN_LAPTOP, ()),
    "hybrid-m2rnn-laptop": partial(_laptop, _M2RNN_LAPTOP),
    "hybrid-gated-deltanet-laptop": partial(_laptop, _GATED_DELTANET_LAPTOP),
    "hybrid-gated-deltanet-laptop-one-m2rnn": partial(_laptop, _GATED_DELTANET_LAPTOP, m2rnn=(0,)),
    "hybrid-gated-deltanet-laptop-three-m2rnn": partial(_laptop, _GATED_DELTANET_LAPTOP, m2rnn=(1, 5, 9)),
    "hybrid-mamba2-laptop": partial(_laptop, _MAMBA2_LAPTOP),
    "hybrid-mamba2-laptop-one-m2rnn": partial(_laptop, _MAMBA2_LAPTOP, m2rnn=(0,)),
    "hybrid-mamba2-laptop-three-m2rnn": partial(_laptop, _MAMBA2_LAPTOP, m2rnn=(1, 5, 9)),
    "shakespeare-attention-one-mru": lambda: PRESETS["shakespeare-attention"]().swap(3, _MRU_384),
    "shakespeare-attention-one-m2rnn": lambda: PRESETS["shakespeare-attention"]().swap(3, _M2RNN_384),
}
"""Presets by name, as `model:` in a configuration file takes them; a value is called for the config."""


def preset(name: str) -> ModelConfig:
    """The config of the preset `name`. Raises KeyError for an unknown name."""
    return PRESETS[name]()
