"""Causal softmax attention with grouped heads, windows and four kinds of positions."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from matrixstate.errors import ShapeError, require
from matrixstate.layers.mixer import About, Mixer, MixerConfig, check_inputs, make_config, one_of, require_width
from matrixstate.layers.positions import count_positions, rotate, xpos_scale
from matrixstate.layers.projection import projection
from matrixstate.ops import AttentionState, accumulation_dtype, attention


@dataclass(frozen=True)
class AttentionConfig(MixerConfig):
    """y_t = sum_j softmax_j(q_t·k_j / √K) v_j over the steps so far; its state grows with the sequence.

    With `window` it is sliding-window attention, whose state stops growing there.
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
    """Query heads; they divide the width."""
    key_heads: int | None = None
    """Heads of keys and values, a divisor of heads, shared by contiguous groups. Default: heads."""
    window: int | None = None
    """How many steps a query sees, itself included. Default: all."""
    positions: Literal["none", "learned", "rotary", "xpos"] = "none"
    """What tells keys apart by their place. "learned" is a table in this layer; GPT-2's single table is the model's."""
    max_positions: int | None = None
    """Rows of the learned table; needed for "learned" and only there."""

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
        )

    def make(self, width: int) -> "Attention":
        return Attention(width, self)


class AttentionMixerState(NamedTuple):
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
        require(
            (
                config.positions not in ("rotary", "xpos") or self.head_size % 2 == 0,
                f"attention: {config.positions} positions need an even head size, got {self.head_size}",
            )
        )
        self.key_heads = config.key_heads or config.heads
        self.sizes = (width, self.key_heads * self.head_size, self.key_heads * self.head_size)
        self.input = projection(width, sum(self.sizes))
        self.output = projection(width, width)
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
            queries_and_keys = rotate(queries_and_keys, position)
        q, k = queries_and_keys.tensor_split([-self.key_heads], dim=2)
        if self.config.positions == "xpos":
            q, k = xpos_scale(q, position, 1), xpos_scale(k, position, -1)
        y, cache = attention(
            q, k, v, None if state is None else state.cache, window=self.config.window, mask=mask, reset=reset
        )
        return self.output(y.flatten(2)), AttentionMixerState(cache, following)

    def init_state(self, batch: int) -> AttentionMixerState:
        weight = self.output.weight
        empty = weight.new_zeros(batch, 0, self.key_heads, self.head_size, dtype=accumulation_dtype(weight.dtype))
        zero = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return AttentionMixerState(AttentionState(empty, empty, zero), zero)

    def mixing_flops(self, length: int) -> int:
        """Products with the keys and values seen, on average over a sequence of `length`."""
        seen = min(length, self.config.window or length)
        average = seen - seen * (seen - 1) / (2 * max(length, 1))
        return int(4 * self.width * average)

    def state_bytes(self, length: int) -> int:
        kept = length if self.config.window is None else min(length, self.config.window - 1)
        return super().state_bytes(length) + 4 * kept * (self.sizes[1] + self.sizes[2])


def learned_positions(table: Tensor, position: Tensor) -> Tensor:
    """Rows of table [N, width] at position [B, T]. Raises ShapeError beyond the table."""
    # compiled code cannot branch on data; there the look-up itself refuses
    if not torch.compiler.is_compiling() and position.numel() and int(position.max()) >= len(table):
        raise ShapeError(f"positions: the table has {len(table)} positions, got a step at {int(position.max())}")
    return table[position]
