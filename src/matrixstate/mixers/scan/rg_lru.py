"""RG-LRU: the recurrent layer of Hawk and Griffin, a gated linear recurrence whose writes shrink as its decay grows."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from matrixstate.errors import require
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    at_least,
    check_inputs,
    make_config,
    require_width,
    zero_padding,
)
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import accumulation_dtype, linear_scan

STEEPEST = 1000.0  # bound of the derivative of the square root, as in RecurrentGemma's code


@dataclass(frozen=True)
class RGLRUConfig(MixerConfig):
    """h_t = a_t h_{t-1} + √(1 - a_t²) (i_t u_t), y_t = h_t gelu(W_g x_t), with log a_t = -8 r_t softplus(Λ).

    Per channel, with u = conv(W_u x) without an activation, r_t = σ(W_r u_t + b_r), i_t = σ(W_i u_t + b_i) and a block
    of W_r and W_i per head. At the first step of a document the factor √(1 - a_t²) is 1. Source: De et al. 2024,
    "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language Models"; the first step, the
    bound of the root's derivative and the initialisation are those of RecurrentGemma's code.
    """

    about: ClassVar[About] = About(
        recurrence="h = a h + √(1 - a²) (i u); y = h gelu(W x); log a = -8 r softplus(Λ); r, i = σ(W u) per head",
        state="channels, conv - 1 inputs, and whether the document has begun",
        op="linear_scan",
        source="De et al. 2024, arXiv:2402.19427",
        forms=("parallel", "chunked", "step"),
    )

    channels: int | None = None
    """Channels of the state, a multiple of heads. Default: the width."""
    heads: int = 4
    """Blocks of the maps to the gates r and i."""
    conv: int = 4
    """Steps of the short convolution of u. 0: none."""
    bias: bool = False
    """Biases of W_u, W_g and the output, zero at initialisation, as in RecurrentGemma."""

    def __post_init__(self) -> None:
        C = self.channels
        require(
            *at_least(1, self, "heads"),
            *at_least(0, self, "conv"),
            (C is None or C > 0, f"channels: expected at least 1, got {C}"),
            (C is None or self.heads < 1 or C % self.heads == 0, f"channels: expected a multiple of heads, got {C}"),
        )

    def make(self, width: int) -> "RGLRU":
        return RGLRU(width, self)


class RGLRUState(NamedTuple):
    """What an RG-LRU mixer carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, channels]; None without a convolution
    scan: Tensor | None  # [B, channels]; None before the first step
    begun: Tensor  # [B] bool, whether the document has had a step


class RGLRU(Float32Parameters, Mixer):
    """The mixer of `RGLRUConfig`. State [B, channels], with a flag per row that says whether the document has begun.

    At initialisation a² at r = 1/8 is uniform in (0.9², 0.999²), which makes a uniform by area in a ring; the maps of
    x are normal with variance 1/width, those to the gates 1/(channels per head), the convolution 1/(100 conv), and
    biases are zero.
    """

    no_weight_decay = float32 = ("rate",)

    def __init__(self, width: int, config: RGLRUConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(RGLRUConfig, width, config, options)
        C, H = config.channels or width, config.heads
        if config.channels is None:
            require_width("rg_lru", width, H, "heads")
        self.config, self.width, self.channels, d = config, width, C, C // H
        self.input = projection(width, C, 1 / math.sqrt(width), bias=config.bias)
        self.gate = projection(width, C, 1 / math.sqrt(width), bias=config.bias)
        self.conv = ShortConv(C, config.conv, bias=True, silu=False) if config.conv else None
        if self.conv is not None and self.conv.bias is not None:
            nn.init.normal_(self.conv.weight, std=0.1 / math.sqrt(config.conv))
            nn.init.zeros_(self.conv.bias)
        self.gates = nn.Parameter(torch.empty(2, H, d, d).normal_(std=1 / math.sqrt(d)))  # of r and i
        self.gates_bias = nn.Parameter(torch.zeros(2, H, d))
        log_a = torch.empty(C).uniform_(0.9**2, 0.999**2).log() / 2
        self.rate = nn.Parameter(torch.log(torch.expm1(-log_a)))  # Λ, the inverse of softplus(Λ) = -log a
        self.output = projection(C, width, 1 / math.sqrt(C), bias=config.bias)

    def forward(
        self, x: Tensor, state: RGLRUState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, RGLRUState]:
        x, reset = check_inputs("RGLRU", x, self.width, mask, reset)
        state = RGLRUState(None, None, self._begun(x.shape[0])) if state is None else state
        u, conv = self.input(x), None
        if self.conv is not None:
            u, conv = self.conv(u, state.conv, mask, reset)
        first, begun = _first_steps(x.shape[1], state.begun, mask, reset)
        log_decay, write = self._terms(u, first)
        h, scan = linear_scan(
            zero_padding(write, mask), log_decay=zero_padding(log_decay, mask), state=state.scan, reset=reset
        )
        return self.output(h * gelu(self.gate(x), approximate="tanh")), RGLRUState(conv, scan, begun)

    def _terms(self, u: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """log a_t [B, T, C], at least float32, and what is written to h_t [B, T, C], in the dtype of u."""
        wide = accumulation_dtype(u.dtype)
        blocks = u.unflatten(-1, self.gates.shape[1:3])
        z = torch.einsum("bthi,ghij->gbthj", blocks, self.gates.to(u.dtype)).flatten(3)
        r, i = torch.sigmoid(z.to(wide) + self.gates_bias.flatten(1)[:, None, None])
        # softplus as in `ForgetGate.step`
        log_decay = -8 * r * torch.logaddexp(self.rate, torch.zeros_like(self.rate))
        # 1 - a² loses its digits where a is nearly 1, expm1 does not
        factor = torch.where(first[..., None], 1, _BoundedSqrt.apply(-torch.expm1(2 * log_decay)))
        return log_decay, (factor * i * u).to(u.dtype)

    def _begun(self, batch: int) -> Tensor:
        return torch.zeros(batch, dtype=torch.bool, device=self.output.weight.device)

    def init_state(self, batch: int) -> RGLRUState:
        zeros = self.rate.new_zeros(batch, self.channels, dtype=accumulation_dtype(self.output.weight.dtype))
        conv = None if self.conv is None else self.conv.init_state(batch)
        return RGLRUState(conv, zeros, self._begun(batch))

    def mixing_flops(self, length: int) -> int:
        """The recurrence, the gates' maps and the convolution."""
        conv = 0 if self.conv is None else self.conv.weight.numel()
        return 2 * (self.channels + self.gates.numel() + conv)


def _first_steps(length: int, begun: Tensor, mask: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which steps [B, T] are the first of a document, and whether the last document has begun [B] after them."""
    real = begun.new_ones(begun.shape[0], length) if mask is None else mask
    first = real & (real.cumsum(1) == 1) & ~begun[:, None]
    return first if reset is None else first | reset, begun | real.any(1)


class _BoundedSqrt(torch.autograd.Function):
    """√x, x >= 0, with a derivative of at most `STEEPEST`, for the true one is infinite at 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.sqrt()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy / (4 * x).clamp(min=STEEPEST**-2).sqrt()
