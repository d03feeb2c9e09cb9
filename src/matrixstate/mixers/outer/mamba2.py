"""Mamba-2: linear attention with a decay per head whose step size also scales the write (state-space duality)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from matrixstate.errors import require
from matrixstate.layers.forget_gate import LogForgetGate
from matrixstate.layers.heads import HeadInputs, KeyValueMixer, KeyValueState, expand_heads
from matrixstate.layers.mixer import (
    About,
    MixerConfig,
    at_least,
    check_inputs,
    expect_divisor,
    make_config,
    positive,
    zero_padding,
)
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.ops import outer_scan


@dataclass(frozen=True)
class Mamba2Config(MixerConfig):
    """S_t = e^{-A Δ_t} S_{t-1} + Δ_t B_t x_tᵀ, y_t = S_tᵀ C_t + D x_t, with Δ_t = softplus(W x + b) and A per head.

    x, B and C come from one short convolution; the read-out is gated with silu(z), then RMS-normed over all heads or
    over groups of them.
    Source: Dao & Gu 2024, "Transformers are SSMs".
    """

    about: ClassVar[About] = About(
        recurrence="S = e^(-A Δ) S + Δ B xᵀ; y = Sᵀ C + D x; Δ = softplus(W u + b) per head",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="outer_scan",
        source="Dao & Gu 2024, arXiv:2405.21060",
    )

    heads: int = 8
    """Number of heads H."""
    key_size: int = 64
    """K, the paper's state size N: channels of B and C."""
    value_size: int = 32
    """V, the paper's head size P: channels of a head's x."""
    groups: int = 1
    """Heads of B and C, a divisor of heads; each serves a contiguous group of heads."""
    norm_groups: int = 1
    """Contiguous groups of heads that are normed by themselves, a divisor of heads. In the authors' code as many as
    `groups`."""
    conv: int = 4
    """Steps of the short convolution (with bias, followed by silu) of x, B and C. 0: silu alone."""
    input_std: float = 0.02
    """Standard deviation of the input projection's weights at initialisation."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads", "key_size", "value_size"),
            *at_least(0, self, "conv"),
            *positive(self, "input_std"),
            expect_divisor(self.heads, self, "groups"),
            expect_divisor(self.heads, self, "norm_groups"),
        )

    def make(self, width: int) -> "Mamba2":
        return Mamba2(width, self)


class Mamba2(KeyValueMixer):
    """The mixer of `Mamba2Config`. State [B, H, K, V].

    At initialisation A is uniform in (1, 16), softplus(b) log-uniform in [0.001, 0.1], and D is 1.
    """

    multiply_adds = 3

    no_weight_decay = ("skip",)

    def __init__(self, width: int, config: Mamba2Config | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(Mamba2Config, width, config, options)
        H, K, V, G = config.heads, config.key_size, config.value_size, config.groups
        self.config, self.width, self.shape = config, width, (H, K, V)
        parts = ((H, V), (G, K), (G, K))
        self.inputs = HeadInputs(width, parts, config.conv, silu=True, bias=True, std=config.input_std)
        self.step = projection(width, H)
        self.forget_gate = LogForgetGate(H, rate_min=1.0)
        self.skip = nn.Parameter(torch.ones(H))
        self.gate = projection(width, H * V)
        self.norm = RMSNorm(H * V, config.norm_groups)
        self.output = projection(H * V, width)

    def forward(
        self, x: Tensor, state: KeyValueState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, KeyValueState]:
        x, reset = check_inputs("Mamba2", x, self.width, mask, reset)
        state = KeyValueState(None, None) if state is None else state
        (v, k, q), conv = self.inputs(x, state.conv, mask, reset)  # the paper's x, B and C
        z = self.step(x)
        decay = zero_padding(self.forget_gate(z), mask)
        step = zero_padding(self.forget_gate.step(z), mask)
        written = (v * step[..., None]).to(v.dtype)  # Δ is at least float32
        q, k = (expand_heads(a, self.config.heads) for a in (q, k))
        y, scan = outer_scan(q, k, written, log_decay=decay, state=state.scan, reset=reset)
        y = (y + self.skip[:, None] * v).flatten(2) * silu(self.gate(x))
        return self.output(self.norm(y)), KeyValueState(conv, scan)
