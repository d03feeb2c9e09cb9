"""Attention whose keys and values several layers read, as in the cross-decoder of YOCO."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from matrixstate.errors import ShapeError, require
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    at_least,
    check_inputs,
    expect_divisor,
    make_config,
    one_of,
    require_width,
)
from matrixstate.layers.positions import average_steps_attended, count_positions, rotate
from matrixstate.layers.projection import projection
from matrixstate.mixers.attention.attention import AttentionMixerState
from matrixstate.ops import AttentionState, accumulation_dtype, attention


@dataclass(frozen=True)
class SharedAttentionConfig(MixerConfig):
    """Attention whose keys and values later layers of the model read too, so that one cache serves all of them.

    A layer with `own` makes keys and values of its input; one without reads those of the last layer before it that has,
    and only makes queries. Source: Sun et al. 2024, "You Only Cache Once". There the keys have a norm of their own;
    here the norm of the first layer's input serves its queries too.
    """

    about: ClassVar[About] = About(
        recurrence="attention, whose keys and values later layers with `own: false` read in place of their own",
        state="2 x key_heads x head size per step, once for all layers that share it",
        op="attention",
        source="Sun et al. 2024, arXiv:2405.05254",
        forms=("parallel", "step"),
    )

    heads: int = 4
    """Query heads, a divisor of the width. This option and the next two are the same in all layers that share keys."""
    key_heads: int | None = None
    """Heads of keys and values, a divisor of heads. Default: heads."""
    positions: Literal["none", "rotary"] = "none"
    """Position embedding."""
    own: bool = True
    """Whether the layer makes keys and values."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads"),
            expect_divisor(self.heads, self, "key_heads"),
            one_of(self, "positions", "none", "rotary"),
        )

    def misfits(self, source: "SharedAttentionConfig | None") -> list[str]:
        """Why a layer cannot read the keys of `source`, the last layer that has some; a sentence per option."""
        if source is None:
            return ["own: expected true, or an earlier shared_attention with it"]
        pairs = ((name, getattr(source, name), getattr(self, name)) for name in ("heads", "key_heads", "positions"))
        return [
            f"{name}: expected {a!r} as the layer has whose keys are read, got {b!r}" for name, a, b in pairs if a != b
        ]

    def make(self, width: int) -> "SharedAttention":
        return SharedAttention(width, self)


class SharedKeys(NamedTuple):
    """The keys and values of a call, for all layers that read them."""

    k: Tensor  # [B, T, G, K], rotated where positions are
    v: Tensor  # [B, T, G, K]
    cache: AttentionState | None  # of earlier calls
    position: Tensor  # [B, T] int64, of each step in its document
    following: Tensor  # [B] int64, of the next step


class SharedAttention(Mixer):
    """The mixer of `SharedAttentionConfig`. Its state is None without `own`."""

    def __init__(self, width: int, config: SharedAttentionConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(SharedAttentionConfig, width, config, options)
        require_width("shared_attention", width, config.heads, "heads")
        self.config, self.width, self.head_size = config, width, width // config.heads
        even = config.positions == "none" or self.head_size % 2 == 0
        require((even, f"shared_attention: rotary positions need an even head size, got {self.head_size}"))
        self.key_heads = config.key_heads or config.heads
        self.query = projection(width, width)
        self.keys = projection(width, 2 * self.key_heads * self.head_size) if config.own else None
        self.output = projection(width, width)

    def share(
        self, x: Tensor, state: AttentionMixerState | None, mask: Tensor | None, reset: Tensor | None
    ) -> SharedKeys:
        """The keys and values of x [B, T, width], for `shared` of later layers; arguments as of `forward`."""
        if self.keys is None:
            raise ShapeError("SharedAttention: expected the keys of an earlier layer with `own`, got none")
        x, reset = check_inputs("SharedAttention", x, self.width, mask, reset)
        start = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device) if state is None else state.position
        position, following = count_positions(start, x.shape[1], mask, reset)
        k, v = self.keys(x).unflatten(-1, (2, self.key_heads, self.head_size)).unbind(2)
        k = rotate(k, position) if self.config.positions == "rotary" else k
        return SharedKeys(k, v, None if state is None else state.cache, position, following)

    def forward(
        self,
        x: Tensor,
        state: AttentionMixerState | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        shared: SharedKeys | None = None,
    ) -> tuple[Tensor, AttentionMixerState | None]:
        """As every mixer's; `shared` is what `share` of an earlier layer returned, or by default of this one."""
        shared = self.share(x, state, mask, reset) if shared is None else shared
        x, reset = check_inputs("SharedAttention", x, self.width, mask, reset)
        q = self.query(x).unflatten(-1, (-1, self.head_size))
        q = rotate(q, shared.position) if self.config.positions == "rotary" else q
        y, cache = attention(q, shared.k, shared.v, shared.cache, mask=mask, reset=reset)
        return self.output(y.flatten(2)), AttentionMixerState(cache, shared.following) if self.config.own else None

    def init_state(self, batch: int) -> AttentionMixerState | None:
        if not self.config.own:
            return None
        weight = self.output.weight
        empty = weight.new_zeros(batch, 0, self.key_heads, self.head_size, dtype=accumulation_dtype(weight.dtype))
        zero = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        return AttentionMixerState(AttentionState(empty, empty, zero), zero)

    def mixing_flops(self, length: int) -> int:
        """The products of queries with keys and of weights with values, on average over a sequence of `length`."""
        return int(4 * self.width * average_steps_attended(length, None))

    def state_bytes(self, length: int) -> int:
        return super().state_bytes(length) + 8 * length * self.key_heads * self.head_size if self.config.own else 0
