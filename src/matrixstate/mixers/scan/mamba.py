"""Mamba: a selective state space model per channel, in a gated block."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from matrixstate.errors import require
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    at_least,
    check_inputs,
    make_config,
    one_of,
    positive,
    zero_padding,
)
from matrixstate.layers.norm import EPS, RMSNorm
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import accumulation_dtype, selective_scan


@dataclass(frozen=True)
class MambaConfig(MixerConfig):
    """h_t = e^{Δ_t A} h_{t-1} + Δ_t u_t B_t, y_t = W ((h_t·C_t + D u_t) silu(z_t)), with N states per channel.

    u = silu(conv(W_u x)), z = W_z x; Δ = softplus(W_2 W_1 u + b) per channel, B and C are linear in u. Source: Gu & Dao
    2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces".
    """

    about: ClassVar[About] = About(
        recurrence="h = e^(Δ A) h + Δ u B; y = (h·C + D u) silu(z); Δ = softplus(W2 W1 u + b) per channel",
        state="expand x width x states, and conv - 1 inputs",
        op="selective_scan",
        source="Gu & Dao 2023, arXiv:2312.00752",
        forms=("chunked", "step"),
    )

    expand: int = 2
    """Channels of u, as a multiple of the width."""
    states: int = 16
    """N, states of a channel."""
    conv: int = 4
    """Steps of the short convolution (with bias, followed by silu) of u. 0: silu alone."""
    rank: int | None = None
    """Channels between W_1 and W_2. Default: a sixteenth of the width, rounded up."""
    step_norms: Literal["none", "plain", "weighted"] = "none"
    """RMS norms of W_1 u, B and C: none as in Mamba, without weights as in FalconMamba, with weights as in Jamba."""
    step_min: float = 1e-3
    """Smallest softplus(b) at initialisation."""
    step_max: float = 0.1
    """Largest softplus(b) at initialisation."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "expand", "states", *(["rank"] if self.rank is not None else [])),
            *at_least(0, self, "conv"),
            *positive(self, "step_min", "step_max"),
            one_of(self, "step_norms", "none", "plain", "weighted"),
        )

    def make(self, width: int) -> "Mamba":
        return Mamba(width, self)


class MambaState(NamedTuple):
    """What a Mamba mixer carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, channels]; None without a convolution
    scan: Tensor | None  # [B, channels, N]; None before the first step


class Mamba(Float32Parameters, Mixer):
    """The mixer of `MambaConfig`. State [B, channels, N].

    At initialisation A is -1 to -N in every channel, D is 1, softplus(b) is log-uniform from `step_min` to `step_max`
    (at least 1e-4) and W_2 uniform within ±1/√rank.
    """

    float32 = ("A_log", "step_bias")
    no_weight_decay = ("A_log", "step_bias", "skip")

    def __init__(self, width: int, config: MambaConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(MambaConfig, width, config, options)
        D, N, rank = config.expand * width, config.states, config.rank or math.ceil(width / 16)
        self.config, self.width, self.sizes = config, width, (rank, N, N)
        self.input = projection(width, 2 * D)
        self.conv = ShortConv(D, config.conv, bias=True) if config.conv else None
        self.parts = projection(D, sum(self.sizes))  # W_1 u, B and C
        self.step = projection(rank, D)
        nn.init.uniform_(self.step.weight, -(rank**-0.5), rank**-0.5)
        low, high = math.log(config.step_min), math.log(config.step_max)
        start = torch.empty(D).uniform_(low, high).exp().clamp(min=1e-4)
        self.step_bias = nn.Parameter(start + torch.log(-torch.expm1(-start)))  # the inverse of softplus
        self.A_log = nn.Parameter(torch.arange(1.0, N + 1).log().repeat(D, 1))
        self.skip = nn.Parameter(torch.ones(D))
        weighted = config.step_norms == "weighted"
        self.norms = nn.ModuleList(RMSNorm(size) for size in self.sizes) if weighted else None
        self.output = projection(D, width)

    def forward(
        self, x: Tensor, state: MambaState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, MambaState]:
        x, reset = check_inputs("Mamba", x, self.width, mask, reset)
        state = MambaState(None, None) if state is None else state
        u, z = self.input(x).chunk(2, dim=-1)
        u, conv = (silu(u), None) if self.conv is None else self.conv(u, state.conv, mask, reset)
        low, B, C = (self._normed(i, part) for i, part in enumerate(self.parts(u).split(self.sizes, dim=-1)))
        step = self.step(low).to(accumulation_dtype(u.dtype)) + self.step_bias
        step = zero_padding(torch.logaddexp(step, torch.zeros_like(step)), mask)  # softplus, as in `ForgetGate.step`
        A, B, C = -self.A_log.exp(), B.to(u.dtype)[:, :, None], C.to(u.dtype)[:, :, None]
        y, scan = selective_scan(u, step, A, B, C, skip=self.skip, state=state.scan, reset=reset)
        return self.output(y * silu(z)), MambaState(conv, scan)

    def _normed(self, i: int, part: Tensor) -> Tensor:
        if self.norms is not None:
            return self.norms[i](part)
        return part if self.config.step_norms == "none" else rms_norm(part, part.shape[-1:], eps=EPS)

    def init_state(self, batch: int) -> MambaState:
        shape = (batch, *self.A_log.shape)
        zeros = self.A_log.new_zeros(shape, dtype=accumulation_dtype(self.output.weight.dtype))
        return MambaState(None if self.conv is None else self.conv.init_state(batch), zeros)

    def mixing_flops(self, length: int) -> int:
        """The recurrence, the read-out and the convolution."""
        conv = 0 if self.conv is None else self.conv.weight.numel()
        return 2 * (3 * self.A_log.numel() + conv)
