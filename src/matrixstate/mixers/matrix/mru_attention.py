"""Attention with running products of orthogonal matrices in place of rotary positions."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    StateMatrices,
    at_least,
    check_inputs,
    expect_divisor,
    make_config,
    one_of,
    positive,
    require_width,
)
from matrixstate.layers.positions import average_steps_attended
from matrixstate.layers.projection import projection
from matrixstate.layers.state_matrix import BUILDERS, build_state_matrix
from matrixstate.ops import AttentionState, accumulation_dtype, attention, matrix_scan
from matrixstate.ops.attn.transition import CHUNK
from matrixstate.ops.matrix import METHODS

ORTHOGONAL = ("cayley", "matrix_exp", "householder")
"""The builders of orthogonal matrices."""


@dataclass(frozen=True)
class MRUAttentionConfig(MixerConfig):
    """y_i = sum_j softmax_j(q_iᵀ (X_{j+1} ... X_i)ᵀ k_j / √K) v_j, with matrices X_t made of the token.

    X acts on groups of D channels. A score depends on the tokens between j and i and on their order, where that of
    rotary positions depends on their number only. With `start` "rotary" every X_t is that of rotary positions at
    initialisation. Where X is orthogonal, a score is (R_i q_i)·(R_j k_j) / √K with R_t = R_{t-1} X_t, which is computed
    once per step; other matrices pass over all earlier keys.
    Source: M. Levi, mru-lm, README (proposed there); rotary positions: Su et al. 2021.
    """

    about: ClassVar[About] = About(
        recurrence="y_i = sum_j softmax_j(q_i·((X_{j+1} ... X_i)^T k_j) / √K) v_j, X made of the token",
        state="2 x key_heads x head size per step, and key_heads x head size x D",
        op="attention",
        source="M. Levi, mru-lm (proposed); rotary positions: Su et al. 2021, arXiv:2104.09864",
        forms=("parallel", "step"),
    )

    heads: int = 4
    """Query heads, a divisor of the width."""
    key_heads: int | None = None
    """Heads of keys, values and matrices, a divisor of heads; each serves a contiguous group of query heads. Default:
    heads."""
    order: int = 4
    """D, the order of the matrices; a divisor of the head size."""
    builder: str = "cayley"
    """The map from a token's elements to X_t: a name of `state_matrix.BUILDERS`. cayley, matrix_exp and householder are
    orthogonal."""
    start: Literal["rotary", "none"] = "rotary"
    """Bias of the elements at initialisation: that which gives the angles of rotary positions, or zero."""
    base: float = 10_000.0
    """Of the rotary angles: the pair n of K/2 is rotated by base^{-2n/K} per step."""
    method: str = "auto"
    """The order of the products in the scan: a name of `ops.matrix.METHODS`."""
    window: int | None = None
    """Steps that a query attends to, its own included. Default: all."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads"),
            *at_least(2, self, "order"),
            expect_divisor(self.heads, self, "key_heads"),
            one_of(self, "builder", *BUILDERS),
            one_of(self, "start", "rotary", "none"),
            (
                self.start == "none" or (self.builder in ("cayley", "matrix_exp") and self.order % 2 == 0),
                f"start: expected none for {self.builder} of order {self.order}, got {self.start}",
            ),
            (self.method in METHODS, f"method: expected one of {', '.join(METHODS)}, got {self.method!r}"),
            *positive(self, "base"),
            (self.window is None or self.window > 0, f"window: expected at least 1, got {self.window}"),
        )

    def make(self, width: int) -> "MRUAttention":
        return MRUAttention(width, self)


class MRUAttentionState(NamedTuple):
    """What the mixer carries from one call to the next."""

    cache: AttentionState  # keys multiplied by R, or by the matrices of the steps after them, and values
    product: Tensor | None  # [B, key_heads · K/D, D, D], R after the last step; None where X is not orthogonal


class MRUAttention(Mixer):
    """The mixer of `MRUAttentionConfig`. The weights of the elements start at zero, their bias as `start` says."""

    def __init__(self, width: int, config: MRUAttentionConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(MRUAttentionConfig, width, config, options)
        require_width("mru_attention", width, config.heads, "heads")
        self.config, self.width, self.head_size = config, width, width // config.heads
        require(
            (
                self.head_size % config.order == 0,
                f"mru_attention: order must divide the head size {self.head_size}, got {config.order}",
            )
        )
        self.key_heads = config.key_heads or config.heads
        self.matrices = self.key_heads * (self.head_size // config.order)
        self.sizes = (width, self.key_heads * self.head_size, self.key_heads * self.head_size)
        self.input = projection(width, sum(self.sizes))
        self.up = projection(width, self.matrices * BUILDERS[config.builder].elements(config.order), std=0)
        self.bias = nn.Parameter(self._elements_at_start())
        self.output = projection(width, width)

    def _elements_at_start(self) -> Tensor:
        """The bias of the elements [matrices, n]: for "rotary" an angle per pair of channels, equal in all heads."""
        config, D = self.config, self.config.order
        elements = torch.zeros(self.matrices, BUILDERS[config.builder].elements(D))
        if config.start == "none":
            return elements
        pairs = self.head_size // 2
        angle = config.base ** (-torch.arange(pairs) / pairs)
        # the Cayley transform of [[0, -a], [a, 0]] is a rotation by 2 arctan(a)
        element = torch.tan(angle / 2) if config.builder == "cayley" else angle
        row = torch.arange(0, D, 2)
        below = row * (row + 1) // 2 + row  # indices of (1, 0), (3, 2), ... in the triangle, which is stored row by row
        elements[:, below] = element.view(-1, D // 2).repeat(self.key_heads, 1)
        return elements

    def forward(
        self,
        x: Tensor,
        state: MRUAttentionState | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, MRUAttentionState]:
        x, reset = check_inputs("MRUAttention", x, self.width, mask, reset)
        cache, product = (None, None) if state is None else state
        matrices = self._matrices(x, mask)
        parts = self.input(x).split(self.sizes, dim=-1)
        q, k, v = (a.unflatten(-1, (-1, self.head_size)) for a in parts)
        transition = None if self.config.builder in ORTHOGONAL else matrices
        if transition is None:
            products, product = matrix_scan(matrices, None, product, reset=reset, method=self.config.method)
            q, k = multiply_channels(products, q), multiply_channels(products, k)
        window = self.config.window
        y, cache = attention(q, k, v, cache, window=window, transition=transition, mask=mask, reset=reset)
        return self.output(y.flatten(2)), MRUAttentionState(cache, product)

    def _matrices(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """X_t [B, T, matrices, D, D], the identity at padded steps."""
        elements = self.up(x).unflatten(-1, self.bias.shape)
        elements = elements.to(accumulation_dtype(elements.dtype)) + self.bias
        matrices = build_state_matrix(self.config.builder, elements, self.config.order)
        if mask is None:
            return matrices
        identity = torch.eye(self.config.order, dtype=matrices.dtype, device=x.device)
        return torch.where(mask[..., None, None, None], matrices, identity)

    def init_state(self, batch: int) -> MRUAttentionState:
        weight, D = self.output.weight, self.config.order
        dtype = accumulation_dtype(weight.dtype)
        empty = weight.new_zeros(batch, 0, self.key_heads, self.head_size, dtype=dtype)
        zero = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        identity = torch.eye(D, dtype=dtype, device=weight.device).expand(batch, self.matrices, D, D)
        product = identity if self.config.builder in ORTHOGONAL else None
        return MRUAttentionState(AttentionState(empty, empty, zero), product)

    def state_matrices(self, state: MRUAttentionState) -> StateMatrices | None:
        return None if state.product is None else StateMatrices(state.product, product=True)

    def mixing_flops(self, length: int) -> int:
        """The matrices' products, and those of attention on average; making X_t is not counted.

        An orthogonal X takes the scan, R q and R k, others the products with all earlier keys, chunk by chunk.
        """
        D, steps = self.config.order, average_steps_attended(length, self.config.window)
        attended = int(4 * self.width * steps) + 2 * self.matrices * D**3
        if self.config.builder in ORTHOGONAL:
            return attended + 2 * D * (self.sizes[0] + self.sizes[1])
        return attended + 2 * D * (self.sizes[0] + int(self.sizes[1] * (steps / CHUNK + CHUNK / 2)))

    def state_bytes(self, length: int) -> int:
        cached = length if self.config.window is None else min(length, self.config.window - 1)
        return super().state_bytes(length) + 4 * cached * (self.sizes[1] + self.sizes[2])


def multiply_channels(products: Tensor, x: Tensor) -> Tensor:
    """R_t x_t for every step and every group of D channels: [B, T, H, K], dtype of x.

    Args:
        products: [B, T, G · K/D, D, D], R_t. G divides H; each of the G serves a contiguous group of the H heads.
        x: [B, T, H, K], queries or keys.
    """
    D = products.shape[-1]
    parts = x.shape[-1] // D
    groups = products.shape[2] // parts
    split = x.unflatten(-1, (parts, D)).unflatten(2, (groups, -1))  # [B, T, G, H/G, K/D, D]
    multiplied = torch.einsum("btgcij,btghcj->btghci", products.unflatten(2, (groups, parts)).to(x.dtype), split)
    return multiplied.flatten(4).flatten(2, 3)
