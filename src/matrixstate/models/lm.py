"""The language model: tokens -> embedding -> blocks -> norm -> logits."""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from matrixstate.errors import ConfigError, ShapeError
from matrixstate.layers.linear import CappedLinear, Linear
from matrixstate.layers.mixer import State
from matrixstate.layers.positions import count_positions
from matrixstate.layers.router import Router
from matrixstate.mixers.attention.attention import Attention, learned_positions
from matrixstate.models.block import Block, make_norm
from matrixstate.models.config import ModelConfig
from matrixstate.models.recomputation import recomputed


class ModelState(NamedTuple):
    """What a language model carries from one call to the next."""

    blocks: tuple[State, ...]  # the state of each layer's mixer; None for a layer without a mixer
    position: Tensor  # [B] int64, the position of the next token in its document


class LanguageModel(nn.Module):
    """The language model of a `ModelConfig`: `logits, state = model(tokens, state=None, *, mask=None, reset=None)`.

    The weights of embeddings and linear maps start normal with standard deviation 0.02 unless a mixer says otherwise;
    those of the last projection of each residual branch are divided by the root of the number of branches, as in GPT-2.

    Raises ConfigError for a config without a vocabulary.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocabulary is None:
            raise ConfigError("vocabulary: expected the number of tokens, got None")
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.positions = None
        if config.learned_positions is not None:
            self.positions = nn.Parameter(torch.randn(config.learned_positions, config.width) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(block, config) for block in config.layers)
        self.norm = make_norm(config)
        sizes, cap = (config.width, config.vocabulary), config.logit_cap
        self.head = Linear(*sizes, bias=False) if cap is None else CappedLinear(*sizes, cap)
        if config.tied:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=0.02)
        self._scale_branches()
        self.recompute = False
        """Whether training keeps only the inputs of blocks, and computes the blocks again in the backward pass."""
        self._state_types = [type(part) for part in self.init_state(1).blocks]

    @property
    def layers(self) -> list[Block]:
        """The blocks, from the input to the output, as `Block`."""
        return [cast(Block, block) for block in self.blocks]

    def _scale_branches(self) -> None:
        """Divide the last weights of every branch, so that the sum of all has the variance of one."""
        mixers = [block.mixer for block in self.layers if block.mixer is not None]
        mlps = [block.mlp for block in self.layers if block.mlp is not None]
        weights = [mixer.output.weight for mixer in mixers] + [w for mlp in mlps for w in mlp.last_weights()]
        with torch.no_grad():
            for weight in weights:
                weight /= math.sqrt(len(mixers) + len(mlps))

    def forward(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """Logits of the next token at every step.

        Args:
            tokens: [B, T] int64 below the vocabulary, T >= 0.
            state: what the last call returned. Default: the initial state.
            mask: [B, T] bool, True at real tokens. Padding changes neither the state nor other steps. Default: all.
            reset: [B, T] bool, True where a document starts: the state is reset before that step. Default: nowhere.

        Returns:
            logits: [B, T, vocabulary]. Undefined at padded steps.
            state: to be passed to the next call.

        Raises:
            ShapeError: another shape or dtype, another model's state; on the CPU also a token beyond the vocabulary
                and a step beyond the learned positions.
        """
        features, state = self.features(tokens, state, mask=mask, reset=reset)
        return self.head(features), state

    def features(
        self,
        tokens: Tensor,
        state: ModelState | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, ModelState]:
        """As `forward`, but returns the input of the output matrix [B, T, width] in place of the logits."""
        self._check(tokens, state, mask, reset)
        B, T = tokens.shape
        x = self.embedding(tokens)
        x = x if self.config.embedding_scale == 1 else x * self.config.embedding_scale
        start = torch.zeros(B, dtype=torch.int64, device=tokens.device) if state is None else state.position
        real_reset = reset if reset is None or mask is None else reset & mask
        position, following = count_positions(start, T, mask, real_reset)
        if self.positions is not None:
            x = x + learned_positions(self.positions, position)
        x = self.dropout(x) if self.training else x
        states, shared = [], None
        recompute = self.recompute and self.training and torch.is_grad_enabled()
        for i, block in enumerate(self.layers):
            inputs = x, None if state is None else state.blocks[i], mask, reset, shared
            x, block_state, shared = recomputed(block, *inputs) if recompute else block(*inputs)
            states.append(block_state)
        return self.norm(x), ModelState(tuple(states), following)

    def _check(self, tokens: Tensor, state: ModelState | None, mask: Tensor | None, reset: Tensor | None) -> None:
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.dtype != torch.int64:
            raise ShapeError(f"LanguageModel: tokens must be torch.int64 [B, T], got {_described(tokens)}")
        for name, flags in (("mask", mask), ("reset", reset)):
            fits = isinstance(flags, Tensor) and flags.shape == tokens.shape and flags.dtype == torch.bool
            if flags is not None and not fits:
                sizes = list(tokens.shape)
                raise ShapeError(f"LanguageModel: {name} must be torch.bool {sizes}, got {_described(flags)}")
        if state is not None:
            self._check_state(state, tokens.shape[0])
        if torch.compiler.is_compiling() or tokens.device.type != "cpu" or not tokens.numel():
            return  # reading a value from another device would wait for it
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.embedding.num_embeddings:
            raise ShapeError(
                f"LanguageModel: tokens must be below {self.embedding.num_embeddings}, got {low if low < 0 else high}"
            )

    def _check_state(self, state: ModelState, batch: int) -> None:
        """Raise ShapeError unless the state is of this model with `batch` rows. Mixers check sizes of their parts."""
        if not isinstance(state, ModelState):
            raise ShapeError(f"LanguageModel: state must be a ModelState, got {type(state).__name__}")
        if len(state.blocks) != len(self.blocks):
            raise ShapeError(
                f"LanguageModel: state must hold {len(self.blocks)} blocks, got {len(state.blocks)}: another model's?"
            )
        for i, (part, expected) in enumerate(zip(state.blocks, self._state_types, strict=True)):
            if not isinstance(part, expected):
                raise ShapeError(
                    f"LanguageModel: state of block {i} must be {expected.__name__}, got {type(part).__name__}: "
                    "another model's?"
                )
        if state.position.shape != (batch,):
            raise ShapeError(f"LanguageModel: state must be of {batch} rows, got {len(state.position)}")

    def init_state(self, batch: int) -> ModelState:
        """The state before the first token, for `batch` rows."""
        blocks = tuple(None if block.mixer is None else block.mixer.init_state(batch) for block in self.layers)
        return ModelState(blocks, torch.zeros(batch, dtype=torch.int64, device=self.device))

    def auxiliary_loss(self) -> Tensor | None:
        """The load-balancing loss of the last forward pass in training mode; None without routers."""
        losses = [m.balance_loss for m in self.modules() if isinstance(m, Router) and m.balance_loss is not None]
        return torch.stack(losses).sum() if losses else None

    @property
    def device(self) -> torch.device:
        """Where its parameters are, and where it expects its inputs."""
        return self.embedding.weight.device

    @property
    def max_positions(self) -> int | None:
        """The most tokens that a document may have with the model's learned positions; None without such."""
        tables = [block.mixer.table for block in self.layers if isinstance(block.mixer, Attention)]
        sizes = [len(table) for table in (*tables, self.positions) if table is not None]
        return min(sizes, default=None)


def _described(value: object) -> str:
    """A value in an error message: dtype and shape of a tensor, else the type."""
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
