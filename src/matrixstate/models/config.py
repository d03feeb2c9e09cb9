"""The configs of a language model and of its blocks."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch

from matrixstate.errors import ConfigError, require
from matrixstate.layers import MixerConfig, MLPConfig
from matrixstate.mixers.attention.shared import SharedAttentionConfig


@dataclass(frozen=True)
class BlockConfig:
    """A pre-norm residual block with a mixer, an MLP or both."""

    mixer: MixerConfig | None = None
    """The mixer along the sequence. Default: none."""
    mlp: MLPConfig | None = None
    """The MLP, applied to every step by itself. Default: none."""
    repeat: int = 1
    """Number of such blocks in a row, each with weights of its own."""

    def __post_init__(self) -> None:
        require(
            (self.repeat > 0, f"repeat: expected at least 1, got {self.repeat}"),
            (self.mixer is not None or self.mlp is not None, "mixer: expected a mixer or an mlp, got neither"),
        )


@dataclass(frozen=True)
class ModelConfig:
    """A language model: token embedding, blocks, norm, and the output matrix that gives the logits.

    Raises ConfigError, with all problems at once, where options are out of range or do not fit the width.
    """

    width: int
    """Channels of the residual stream."""
    blocks: tuple[BlockConfig, ...]
    """The blocks, from the input to the output; hybrid models mix blocks with different mixers."""
    vocabulary: int | None = None
    """Number of tokens. Default: that of the tokenizer."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm without bias, or RMSNorm."""
    tied: bool = True
    """Share the weights of the embedding with the output matrix."""
    learned_positions: int | None = None
    """Rows of a learned position embedding added to that of the tokens, as in GPT-2. Default: none."""
    embedding_scale: float = 1.0
    """Multiplies the embedding of the tokens. Gemma's models, whose embedding is tied, have the root of the width."""
    logit_cap: float | None = None
    """c of logits c tanh(z / c), which stay within [-c, c]; 30 in Gemma's models. Default: z as it is."""
    dropout: float = 0.0
    """Probability of dropout after the embedding and after every mixer and MLP, in training."""

    def __post_init__(self) -> None:
        require(
            (self.width > 0, f"width: expected at least 1, got {self.width}"),
            (len(self.blocks) > 0, "blocks: expected at least one block, got none"),
            (self.vocabulary is None or self.vocabulary > 1, f"vocabulary: expected 2 or more, got {self.vocabulary}"),
            (self.norm in ("layer", "rms"), f"norm: expected one of layer, rms, got {self.norm!r}"),
            (
                self.learned_positions is None or self.learned_positions > 0,
                f"learned_positions: expected at least 1, got {self.learned_positions}",
            ),
            (
                0 < self.embedding_scale < math.inf,
                f"embedding_scale: expected a positive number, got {self.embedding_scale}",
            ),
            (
                self.logit_cap is None or 0 < self.logit_cap < math.inf,
                f"logit_cap: expected a positive number, got {self.logit_cap}",
            ),
            (0 <= self.dropout < 1, f"dropout: expected a number in [0, 1), got {self.dropout}"),
        )
        problems: list[str] = []
        source: SharedAttentionConfig | None = None
        for i, block in enumerate(self.blocks):
            if isinstance(block.mixer, SharedAttentionConfig):
                source = block.mixer if block.mixer.own else source
                problems += [f"blocks.{i}.mixer.{problem}" for problem in block.mixer.misfits(source)]
            for part in (block.mixer, block.mlp):
                try:
                    with torch.device("meta"):  # allocates nothing; finds options that do not fit the width
                        _ = part is None or part.make(self.width)
                except ConfigError as error:
                    problems += [f"blocks.{i}.{problem}" for problem in error.problems]
                except (RuntimeError, OverflowError) as error:  # from PyTorch, for sizes beyond 64-bit integers
                    if "overflow" not in str(error).lower():
                        raise  # a bug in the mixer, of a plug-in for example
                    problems.append(f"blocks.{i}: expected sizes that a computer can address, got far larger ones")
        if problems:
            raise ConfigError(problems)

    @property
    def layers(self) -> tuple[BlockConfig, ...]:
        """The blocks with `repeat` expanded: one entry per layer."""
        return tuple(dataclasses.replace(block, repeat=1) for block in self.blocks for _ in range(block.repeat))

    def swap(self, layer: int, mixer: MixerConfig | None) -> "ModelConfig":
        """The same model with another mixer, or none, in one layer, counted from 0 in `layers`.

        Raises ConfigError for a layer that does not exist.
        """
        layers = list(self.layers)
        require((0 <= layer < len(layers), f"layer: expected 0 to {len(layers) - 1}, got {layer}"))
        layers[layer] = dataclasses.replace(layers[layer], mixer=mixer)
        return dataclasses.replace(self, blocks=tuple(layers))
