"""Causal softmax attention with grouped query heads, sliding windows and four kinds of position embeddings."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from matrixstate.errors import ShapeError, require
from matrixstate.layers.mixer import About, Mixer, MixerConfig, check_inputs, make_config, one_of, require_width
from matrixstate.layers.positions import average_steps_attended, count_positions, rotate, xpos_scale
from matrixstate.layers.projection import projection
from matrixstate.ops import AttentionState, accumulation_dtype, attention


@dataclass(frozen=True)
class AttentionConfig(MixerConfig):
    """y_t = sum_j softmax_j(q_t·k_j / √K) v_j over j <= t, with a state of all keys and values so far.

    With `window` it is sliding-window attention, whose state holds the last window - 1 keys and values.
    Sources: Vaswani et al. 2017; windows: Beltagy et al. 2020, "Longformer".
    """

    about: ClassVar[About] = About(
        recurrence="y_t = sum_j softmax_j(q_t·k_j / √K) v_j over j <= t, with `window` over the last steps only",
        state="2 x key_heads x head size per step, at most window - 1 steps",
        op="attention",
        source="Vaswani et al. 2017, arXiv:1706.03762; windows: Beltagy et al. 2020, arXiv:2004.05150",
        forms=("parallel", "step"),
    )

    heads: int = 4
    """Query heads, a divisor of the width."""
    key_heads: int | None = None
    """Heads of keys and values, a divisor of heads; each serves a contiguous group of query heads. Default: heads."""
    window: int | None = None
    """Steps that a query attends to, its own included. Default: all."""
    positions: Literal["none", "learned", "rotary", "xpos"] = "none"
    """Position embedding. "learned" adds a table of this layer to its input; one for the whole model, as GPT-2 has, is
    the model's option `learned_positions`."""
    max_positions: int | None = None
    """Rows of the learned table; required for "learned", else None."""
    rotary_channels: int | None = None
    """First channels of a head that rotary positions rotate, an even number; the others keep no position. Default: all
    of them."""
    output_bias: bool = False
    """A bias of the output, zero at initialisation."""

    def __post_init__(self) -> None:
        require(
            (self.heads > 0, f"heads: expected at least 1, got {self.heads}"),
            (
                self.key_heads is None or (self.key_heads > 0 and self.heads % self.key_heads == 0),
                f"key_heads: expected a divisor of {self.heads}, got {self.key_heads}",
            ),
            (self.window is None or self.window > 0, f"window: expected at least 1, got {self.window}"),
            one_of(self, "positions", "none", "learned", "rotary", "xpos"),
            (
                (self.positions == "learned") == (self.max_positions is not None),
                f"max_positions: expected with learned positions and only there, got {self.max_positions}",
            ),
            (
                self.max_positions is None or self.max_positions > 0,
                f"max_positions: expected at least 1, got {self.max_positions}",
            ),
            (
                self.rotary_channels is None or self.positions == "rotary",
                f"rotary_channels: expected with rotary positions only, got {self.rotary_channels}",
            ),
            (
                self.rotary_channels is None or (self.rotary_channels > 0 and self.rotary_channels % 2 == 0),
                f"rotary_channels: expected a positive even number, got {self.rotary_channels}",
            ),
        )

    def make(self, width: int) -> "Attention":
        return Attention(width, self)


class AttentionMixerState(NamedTuple):
    """What attention carries from one call to the next."""

    cache: AttentionState
    position: Tensor  # [B] int64, the position of the next step in its document


class Attention(Mixer):
    """The mixer of `AttentionConfig`."""

    def __init__(self, width: int, config: AttentionConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(AttentionConfig, width, config, options)
        require_width("attention", width, config.heads, "heads")
        self.config, self.width = config, width
        self.head_size = width // config.heads
        self.rotated = config.rotary_channels or self.head_size
        require(
            (
                config.positions not in ("rotary", "xpos") or self.rotated % 2 == 0,
                f"attention: {config.positions} positions need an even head size, got {self.head_size}",
            ),
            (
                self.rotated <= self.head_size,
                f"rotary_channels: expected at most the head size {self.head_size}, got {self.rotated}",
            ),
        )
        self.key_heads = config.key_heads or config.heads
        self.sizes = (width, self.key_heads * self.head_size, self.key_heads * self.head_size)
        self.input = projection(width, sum(self.sizes))
        self.output = projection(width, width, bias=config.output_bias)
        self.table = None
        if config.max_positions is not None:
            self.table = nn.Parameter(torch.randn(config.max_positions, width) * 0.02)

    def forward(
        self,
        x: Tensor,
        state: AttentionMixerState | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, AttentionMixerState]:
        x, reset = check_inputs("Attention", x, self.width, mask, reset)
        B, T, _ = x.shape
        start = torch.zeros(B, dtype=torch.int64, device=x.device) if state is None else state.position
        position, following = count_positions(start, T, mask, reset)
        if self.table is not None:
            x = x + learned_positions(self.table, position)
        queries_and_keys, v = self.input(x).unflatten(-1, (-1, self.head_size)).tensor_split([-self.key_heads], dim=2)
        if self.config.positions in ("rotary", "xpos"):
            queries_and_keys = self._rotate(queries_and_keys, position)
        q, k = queries_and_keys.tensor_split([-self.key_heads], dim=2)
        if self.config.positions == "xpos":
            q, k = xpos_scale(q, position, 1), xpos_scale(k, position, -1)
        y, cache = attention(
            q, k, v, None if state is None else state.cache, window=self.config.window, mask=mask, reset=reset
        )
        return self.output(y.flatten(2)), AttentionMixerState(cache, following)

    def _rotate(self, x: Tensor, position: Tensor) -> Tensor:
        """x [B, T, heads, head size], its first `rotary_channels` rotated."""
        if self.rotated == self.head_size:
            return rotate(x, position)
        return torch.cat([rotate(x[..., : self.rotated], position), x[..., self.rotated :]], dim=-1)

    def init_state(self, batch: int) -> AttentionMixerState:
        weight = self.output.weight
        empty = weight.new_zeros(batch, 0, self.key_heads, self.head_size, dtype=accumulation_dtype(weight.dtype))
        zero = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return AttentionMixerState(AttentionState(empty, empty, zero), zero)

    def mixing_flops(self, length: int) -> int:
        """The products of queries with keys and of weights with values, on average over a sequence of `length`."""
        return int(4 * self.width * average_steps_attended(length, self.config.window))

    def state_bytes(self, length: int) -> int:
        cached = length if self.config.window is None else min(length, self.config.window - 1)
        return super().state_bytes(length) + 4 * cached * (self.sizes[1] + self.sizes[2])


def learned_positions(table: Tensor, position: Tensor) -> Tensor:
    """Rows of table [N, width] at position [B, T]: [B, T, width]. Raises ShapeError for a position of N or more.

    In compiled code, and on other devices than the CPU, where reading a value would wait, the indexing itself fails.
    """
    seen = not torch.compiler.is_compiling() and position.device.type == "cpu" and position.numel()
    if seen and int(position.max()) >= len(table):
        raise ShapeError(f"positions: the table has {len(table)} positions, got a step at {int(position.max())}")
    return table[position]
