"""What a language model is made of, as data."""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch

from matrixstate.errors import ConfigError, require
from matrixstate.layers import MixerConfig, MLPConfig


@dataclass(frozen=True)
class BlockConfig:
    """One pre-norm residual block: a mixer or none, then an MLP or none."""

    mixer: MixerConfig | None = None
    """Mixes along the sequence."""
    mlp: MLPConfig | None = None
    """Acts on every step by itself."""
    repeat: int = 1
    """How many such blocks stand in a row, each with weights of its own."""

    def __post_init__(self) -> None:
        require(
            (self.repeat > 0, f"repeat: expected at least 1, got {self.repeat}"),
            (self.mixer is not None or self.mlp is not None, "mixer: expected a mixer or an mlp, got neither"),
        )


@dataclass(frozen=True)
class ModelConfig:
    """A language model: embedding, blocks, norm, logits."""

    width: int
    """Channels of the residual stream."""
    blocks: tuple[BlockConfig, ...]
    """From the input to the output. Pure, hybrid, one-layer-swap and MLP-only models are all just lists of blocks."""
    vocabulary: int | None = None
    """Number of tokens. Default: that of the tokenizer."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm without bias, or RMSNorm."""
    tied: bool = True
    """Use the embedding as the output matrix too."""
    learned_positions: int | None = None
    """Rows of a learned table of positions added to the embedding, as GPT-2 has. Default: none."""
    dropout: float = 0.0
    """Probability of dropping a channel after the embedding and after every mixer and MLP, in training."""

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
            (0 <= self.dropout < 1, f"dropout: expected a number in [0, 1), got {self.dropout}"),
        )
        problems = []
        for i, block in enumerate(self.blocks):
            for part in (block.mixer, block.mlp):
                try:
                    with torch.device("meta"):  # shapes only: finds what does not fit the width
                        _ = part is None or part.make(self.width)
                except ConfigError as error:
                    problems += [f"blocks.{i}.{problem}" for problem in error.problems]
                except (RuntimeError, OverflowError) as error:  # sizes whose product no number of bytes can count
                    if "overflow" not in str(error).lower():
                        raise  # a mistake in the mixer, of a plug-in say
                    problems.append(f"blocks.{i}: expected sizes that a computer can address, got far larger ones")
        if problems:
            raise ConfigError(problems)

    @property
    def layers(self) -> tuple[BlockConfig, ...]:
        """The blocks with repeats written out."""
        return tuple(dataclasses.replace(block, repeat=1) for block in self.blocks for _ in range(block.repeat))

    def swap(self, layer: int, mixer: MixerConfig | None) -> "ModelConfig":
        """The same model with the mixer of one layer (counted from 0, repeats written out) exchanged."""
        layers = list(self.layers)
        require((0 <= layer < len(layers), f"layer: expected 0 to {len(layers) - 1}, got {layer}"))
        layers[layer] = dataclasses.replace(layers[layer], mixer=mixer)
        return dataclasses.replace(self, blocks=tuple(layers))
