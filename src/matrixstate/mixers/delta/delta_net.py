"""DeltaNet: linear attention that replaces what its state holds for a key instead of adding to it."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import silu

from matrixstate.errors import require
from matrixstate.layers.forget_gate import LogForgetGate
from matrixstate.layers.heads import HeadInputs, KeyValueMixer, KeyValueState, share, unit
from matrixstate.layers.mixer import (
    About,
    MixerConfig,
    at_least,
    check_inputs,
    expect_divisor,
    make_config,
    positive,
    silence,
)
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.ops import gated_delta_product


@dataclass(frozen=True)
class DeltaNetConfig(MixerConfig):
    """S_t = (I - β_t k_t k_tᵀ) S_{t-1} + β_t k_t v_tᵀ, y_t = S_tᵀ q_t / √K, with |q| = |k| = 1, β_t = σ(w x_t).

    q, k and v come through a short convolution and silu; every head's output is RMS-normed.
    Source: Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule"; the rule: Schlag et al. 2021.
    """

    about: ClassVar[About] = About(
        recurrence="S = (I - β k kᵀ) S + β k vᵀ; y = Sᵀ q; |k| = 1, β = σ(w x)",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="delta_scan",
        source="Yang et al. 2024, arXiv:2406.06484",
    )

    heads: int = 4
    """Number of heads H."""
    key_size: int = 32
    """K, channels of a head's queries and keys."""
    value_size: int = 32
    """V, channels of a head's values."""
    key_heads: int | None = None
    """Heads of queries and keys, a divisor of heads, shared by contiguous groups. Default: heads."""
    conv: int = 4
    """Steps of the short convolution (with silu) over q, k and v. 0: silu alone."""
    negative_eigenvalues: bool = False
    """β in (0, 2) instead of (0, 1): eigenvalues in (-1, 1), which can track states. Source: Grazzi et al. 2024."""
    gate: bool = False
    """Multiply the normed read-out by silu of a projection of the input."""
    input_std: float = 0.02
    """Standard deviation of the input projection's weights at the start."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads", "key_size", "value_size"),
            *at_least(0, self, "conv"),
            *positive(self, "input_std"),
            expect_divisor(self.heads, self, "key_heads"),
        )

    def make(self, width: int) -> "DeltaNet":
        return DeltaNet(width, self)


class DeltaMixer(KeyValueMixer):
    """What DeltaNet and its relatives share.

    decay: a forget gate per head before the rules of a step. micro_steps: how many rules a step applies.
    """

    def __init__(self, width: int, config: DeltaNetConfig, *, decay: bool, micro_steps: int) -> None:
        super().__init__()
        H, K, V, m = config.heads, config.key_size, config.value_size, micro_steps
        self.config, self.width, self.shape = config, width, (H, K, V)
        self.micro_steps, self.passes = m, 4 * m
        G = config.key_heads or H
        self.inputs = HeadInputs(width, ((G, K), (m * G, K), (m * H, V)), config.conv, silu=True, std=config.input_std)
        self.beta = projection(width, m * H)
        self.forget = projection(width, H) if decay else None
        self.forget_gate = LogForgetGate(H) if decay else None
        self.gate = projection(width, H * V) if config.gate else None
        self.norm = RMSNorm(V)
        self.output = projection(H * V, width)

    def forward(
        self, x: Tensor, state: KeyValueState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, KeyValueState]:
        x, reset = check_inputs(type(self).__name__, x, self.width, mask, reset)
        state = KeyValueState(None, None) if state is None else state
        (q, k, v), conv = self.inputs(x, state.conv, mask, reset)
        k, v, beta = (self._micro(a) for a in (k, v, self._beta(x, mask)))
        q, k = (share(unit(a), self.config.heads) for a in (q, k))
        decay = None
        if self.forget is not None and self.forget_gate is not None:
            decay = silence(self.forget_gate(self.forget(x)), mask)
        q = q / math.sqrt(self.config.key_size)
        y, scan = gated_delta_product(q, k, v, beta, decay, micro_steps=self.micro_steps, state=state.scan, reset=reset)
        y = self.norm(y).flatten(2)
        return self.output(y if self.gate is None else y * silu(self.gate(x))), KeyValueState(conv, scan)

    def _beta(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """How much each rule replaces [B, T, m·H]; nothing at padded steps."""
        beta = torch.sigmoid(self.beta(x).to(self.norm.weight.dtype))
        return silence(2 * beta if self.config.negative_eigenvalues else beta, mask)

    def _micro(self, x: Tensor) -> Tensor:
        """[B, T, m·heads, ...] -> [B, T·m, heads, ...]."""
        return x.unflatten(2, (self.micro_steps, -1)).flatten(1, 2)


class DeltaNet(DeltaMixer):
    """The mixer of `DeltaNetConfig`. State [B, H, K, V]."""

    def __init__(self, width: int, config: DeltaNetConfig | None = None, **options: Any) -> None:
        super().__init__(width, make_config(DeltaNetConfig, width, config, options), decay=False, micro_steps=1)
