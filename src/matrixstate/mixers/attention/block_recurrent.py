"""The recurrent layer of the Block-Recurrent Transformer: attention with states that are updated once per block."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from matrixstate.errors import require
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    at_least,
    check_inputs,
    make_config,
    one_of,
    require_width,
    zero_padding,
)
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.positions import average_steps_attended, count_positions
from matrixstate.layers.projection import projection
from matrixstate.ops import AttentionState, accumulation_dtype, attention


@dataclass(frozen=True)
class BlockRecurrentConfig(MixerConfig):
    """Tokens attend to a window and to M states; after each block of W tokens the states attend to it and each other.

    y = W_o [attend(q, tokens), attend(q', states)]; s <- g s + (1 - g) z, z = W_s [attend(p, states), attend(p',
    block)]. Blocks are counted from the start of a document, where the states are zeros; a vector of each state's own
    is added to it before it is read. Heads share their keys and values. Source: Hutchins et al. 2022, "Block-Recurrent
    Transformers", where one layer of twelve is such a one, with 512 states and W = 512; its relative positions are left
    out.
    """

    about: ClassVar[About] = About(
        recurrence="y = [attention over a window, over the states]; once a block s = g s + (1 - g) attend(s; s, block)",
        state="states x width, and 2 x head size per step of the window",
        op="attention",
        source="Hutchins et al. 2022, arXiv:2203.07852",
        forms=("parallel", "step"),
    )

    heads: int = 4
    """Query heads, a divisor of the width."""
    states: int = 64
    """M, the number of states."""
    block: int = 64
    """W, the tokens of a block and of the window."""
    gate: Literal["fixed", "lstm"] = "fixed"
    """Of the states: "fixed" a learned g per channel, near 1/2 at first; "lstm" gates s and z by maps of z with biases
    that start at 1 and -1."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "heads", "states", "block"), one_of(self, "gate", "fixed", "lstm"))

    def make(self, width: int) -> "BlockRecurrent":
        return BlockRecurrent(width, self)


class BlockRecurrentState(NamedTuple):
    """What the mixer carries from one call to the next."""

    cache: AttentionState  # keys and values of the last W - 1 tokens
    states: Tensor  # [B, M, width], at least float32
    position: Tensor  # [B] int64, of the next token in its document


class BlockRecurrent(Mixer):
    """The mixer of `BlockRecurrentConfig`."""

    no_weight_decay = ("names", "keep")

    def __init__(self, width: int, config: BlockRecurrentConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(BlockRecurrentConfig, width, config, options)
        require_width("block_recurrent", width, config.heads, "heads")
        self.config, self.width, self.head_size = config, width, width // config.heads
        self.input = projection(width, 2 * width + 2 * self.head_size)  # two queries, a key and a value
        self.states_input = projection(width, 2 * width + 2 * self.head_size)
        self.norm = RMSNorm(width)
        self.names = nn.Parameter(torch.randn(config.states, width) * 0.02)
        self.states_output = projection(2 * width, width)
        self.gates = None
        if config.gate == "fixed":
            self.keep = nn.Parameter(torch.randn(width) * 0.1)
        else:
            self.gates = Linear(width, 2 * width)
            nn.init.normal_(self.gates.weight, std=0.02)
            with torch.no_grad():
                self.gates.bias.copy_(torch.tensor([1.0, -1.0]).repeat_interleave(width))
        self.output = projection(2 * width, width)

    def forward(
        self,
        x: Tensor,
        state: BlockRecurrentState | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, BlockRecurrentState]:
        x, reset = check_inputs("BlockRecurrent", x, self.width, mask, reset)
        cache, states, start = self.init_state(x.shape[0]) if state is None else state
        q, to_states, k, v = self._parts(self.input(zero_padding(x, mask)))
        near, after = attention(q, k, v, cache, window=self.config.block, mask=mask, reset=reset)
        position, following = count_positions(start, x.shape[1], mask, reset)
        real = torch.ones_like(position, dtype=torch.bool) if mask is None else mask
        block = (real & (position % self.config.block == 0)).cumsum(dim=1)  # 0 while the last call's block goes on
        far = torch.zeros_like(q)
        for n, (begin, end) in enumerate(_spans(block, self.config.block, reset is not None)):
            part, here = slice(begin, end), (block[:, begin:end] == n) & real[:, begin:end]
            new = (here & (position[:, part] == 0)).any(dim=1)
            states = torch.where(new[:, None, None], 0, states)
            p, to_tokens, key, value = self._parts(self.states_input(self.norm(states + self.names).to(x.dtype)))
            seen = _attend(to_states[:, part], key, value, None)
            far = far + torch.nn.functional.pad(
                torch.where(here[..., None, None], seen, 0), (0, 0, 0, 0, begin, x.shape[1] - end)
            )
            full = (here & (position[:, part] % self.config.block == self.config.block - 1)).any(dim=1)
            if torch.compiler.is_compiling() or bool(full.any()):
                keys, values = k[:, part], v[:, part]
                if n == 0:  # a block that an earlier call began
                    size, cached = cache.k.shape[1], start % self.config.block
                    keys, values = (
                        torch.cat([cache.k.to(k.dtype), keys], 1),
                        torch.cat([cache.v.to(v.dtype), values], 1),
                    )
                    earlier = torch.arange(size, device=x.device) >= size - cached[:, None]
                    here = torch.cat([earlier, here], dim=1)
                here = here | ~full[:, None]  # where nothing is updated nothing may be without a key
                read = torch.cat([_attend(p, key, value, None), _attend(to_tokens, keys, values, here)], dim=2)
                states = torch.where(full[:, None, None], self._update(states, read.flatten(2)), states)
        y = self.output(torch.cat([near, far], dim=2).flatten(2))
        return y, BlockRecurrentState(after, states, following)

    def _parts(self, x: Tensor) -> list[Tensor]:
        """Two queries [B, N, H, K], a key and a value [B, N, 1, K]."""
        heads = self.config.heads
        return list(x.unflatten(-1, (-1, self.head_size)).split((heads, heads, 1, 1), dim=2))

    def _update(self, states: Tensor, read: Tensor) -> Tensor:
        """The states [B, M, width] after a block of which they have `read` [B, M, 2 width]."""
        z = self.states_output(read)
        if self.gates is None:
            keep, write = torch.sigmoid(self.keep), torch.sigmoid(-self.keep)
        else:
            keep, write = torch.sigmoid(self.gates(z)).chunk(2, dim=-1)
        return keep * states + (write * z).to(states.dtype)

    def init_state(self, batch: int) -> BlockRecurrentState:
        weight = self.output.weight
        dtype = accumulation_dtype(weight.dtype)
        empty = weight.new_zeros(batch, 0, 1, self.head_size, dtype=dtype)
        zero = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        states = weight.new_zeros(batch, self.config.states, self.width, dtype=dtype)
        return BlockRecurrentState(AttentionState(empty, empty, zero), states, zero)

    def mixing_flops(self, length: int) -> int:
        """Attention of a token to its window and to the states, and a token's part of the states' attention."""
        config = self.config
        steps = average_steps_attended(length, config.block) + config.states
        return int(4 * self.width * (steps + config.states * (config.states + config.block) / config.block))

    def state_bytes(self, length: int) -> int:
        return super().state_bytes(length) + 8 * min(length, self.config.block - 1) * self.head_size


def _attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
    """q [B, N, H, K] attends to k, v [B, J, 1, K], of which allowed [B, J] may be seen: [B, N, H, K]."""
    q, k, v = (a.transpose(1, 2) for a in (q, k, v))
    k, v = (a.expand(-1, q.shape[1], -1, -1) for a in (k, v))
    return scaled_dot_product_attention(q, k, v, None if allowed is None else allowed[:, None, None]).transpose(1, 2)


def _spans(block: Tensor, size: int, resets: bool) -> list[tuple[int, int]]:
    """Of each block 0, 1, ... of block [B, T] the first step that any row has in it, and the one after the last.

    Compiled code, which cannot read values, gets the whole sequence for as many blocks as there may be.
    """
    T = block.shape[1]
    if torch.compiler.is_compiling():
        return [(0, T)] * (T + 1 if resets else T // size + 2)
    first = [(block < n).sum(dim=1).min() for n in range(int(block.max()) + 1)] if block.numel() else []
    last = [(block <= n).sum(dim=1).max() for n in range(len(first))]
    return [(int(a), int(b)) for a, b in zip(first, last, strict=True)]
