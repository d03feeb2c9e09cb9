"""Longhorn as published: a recurrence per channel that keeps the diagonal of a delta rule's transition."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from matrixstate.errors import require
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, Mixer, MixerConfig, at_least, check_inputs, make_config, zero_padding
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.mixers.scan.mamba import MambaState
from matrixstate.ops import accumulation_dtype, linear_scan
from matrixstate.ops._checks import full_precision
from matrixstate.ops._operators import needs_gradient
from matrixstate.ops._recompute import recomputed_chunks


@dataclass(frozen=True)
class LonghornDiagonalConfig(MixerConfig):
    """h_t = (1 - ε_t k_t²) h_{t-1} + ε_t k_t u_t, y_t = W ((h_t·q_t + D u_t) silu(z_t)), with N states per channel.

    u = silu(conv(W_u x)), z = W_z x; ε = β / (1 + β |k|²) and β = σ(W_2 W_1 u + b) per channel, k and q linear in u.
    It is the step of the mixer `longhorn` with the diagonal of k kᵀ alone. Source: Liu et al. 2024, "Longhorn: State
    Space Models are Amortized Online Learners", the layer of the authors' code.
    """

    about: ClassVar[About] = About(
        recurrence="h = (1 - ε k²) h + ε k u; y = (h·q + D u) silu(z); ε = β / (1 + β |k|²), β = σ(W2 W1 u + b)",
        state="expand x width x states, and conv - 1 inputs",
        op="linear_scan",
        source="Liu et al. 2024, arXiv:2407.14207",
        forms=("chunked", "step"),
    )

    expand: int = 2
    """Channels of u, as a multiple of the width."""
    states: int = 16
    """N, states of a channel."""
    conv: int = 4
    """Steps of the short convolution (with bias, followed by silu) of u. 0: silu alone."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "expand", "states"), *at_least(0, self, "conv"))

    def make(self, width: int) -> "LonghornDiagonal":
        return LonghornDiagonal(width, self)


class LonghornDiagonal(Mixer):
    """The mixer of `LonghornDiagonalConfig`. State [B, channels, N]. At initialisation D is 1."""

    no_weight_decay = ("skip",)

    def __init__(self, width: int, config: LonghornDiagonalConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(LonghornDiagonalConfig, width, config, options)
        D, N, rank = config.expand * width, config.states, -(-width // 16)  # the paper's rank, rounded up
        self.config, self.width, self.sizes = config, width, (rank, N, N)
        self.input = projection(width, 2 * D)
        self.conv = ShortConv(D, config.conv, bias=True) if config.conv else None
        self.parts = projection(D, sum(self.sizes))  # W_1 u, k and q
        self.beta = Linear(rank, D)
        self.skip = nn.Parameter(torch.ones(D))
        self.output = projection(D, width)

    def forward(
        self, x: Tensor, state: MambaState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, MambaState]:
        x, reset = check_inputs("LonghornDiagonal", x, self.width, mask, reset)
        state = MambaState(None, None) if state is None else state
        u, z = self.input(x).chunk(2, dim=-1)
        u, conv = (silu(u), None) if self.conv is None else self.conv(u, state.conv, mask, reset)
        low, k, q = self.parts(u).split(self.sizes, dim=-1)
        beta = zero_padding(torch.sigmoid(self.beta(low).to(accumulation_dtype(u.dtype))), mask)
        inputs = (q, k, u, beta, reset)
        y, scan = recomputed_chunks(_chunk, inputs, state.scan, needs_gradient(q, k, u, beta, state.scan))
        return self.output((y.to(u.dtype) + self.skip * u) * silu(z)), MambaState(conv, scan)

    def init_state(self, batch: int) -> MambaState:
        weight, (_, N, _) = self.output.weight, self.sizes
        zeros = weight.new_zeros(batch, len(self.skip), N, dtype=accumulation_dtype(weight.dtype))
        return MambaState(None if self.conv is None else self.conv.init_state(batch), zeros)

    def mixing_flops(self, length: int) -> int:
        """The recurrence, the read-out and the convolution."""
        conv = 0 if self.conv is None else self.conv.weight.numel()
        return 2 * (3 * len(self.skip) * self.config.states + conv)


def _chunk(
    q: Tensor, k: Tensor, u: Tensor, beta: Tensor, reset: Tensor | None, state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h_t·q_t [B, T, D] and the last h [B, D, N]; q, k [B, T, N], u, beta [B, T, D]; in the dtype of beta."""
    q, k, u = (a.to(beta.dtype) for a in (q, k, u))
    squares, beta = k.square(), beta[..., None]
    length = squares.sum(-1, keepdim=True)
    others = (length - squares).clamp_min(0)[:, :, None]
    # log(1 - ε k²), with all its digits where that is nearly 1 or 0
    decay = -torch.log1p(beta * squares[:, :, None] / (1 + beta * others))
    write = beta / (1 + beta * length[..., None]) * k[:, :, None] * u[..., None]
    h, state = linear_scan(write, log_decay=decay, state=state, reset=reset)
    with full_precision(h):
        return torch.einsum("btdn,btn->btd", h, q), state
