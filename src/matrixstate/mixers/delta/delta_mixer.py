"""The base of the mixers with a delta rule: DeltaNet, Gated DeltaNet and Gated DeltaProduct."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from matrixstate.errors import require
from matrixstate.layers.forget_gate import LogForgetGate
from matrixstate.layers.heads import HeadInputs, KeyValueMixer, KeyValueState, expand_heads, l2_normalise
from matrixstate.layers.mixer import (
    MixerConfig,
    at_least,
    at_least_zero,
    check_inputs,
    expect_divisor,
    positive,
    zero_padding,
)
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.ops import gated_delta_product


@dataclass(frozen=True)
class DeltaConfig(MixerConfig):
    """The options that all mixers with a delta rule have."""

    heads: int = 4
    """Number of heads H."""
    key_size: int = 32
    """K, channels of a head's queries and keys."""
    value_size: int = 32
    """V, channels of a head's values."""
    key_heads: int | None = None
    """Heads of queries and keys, a divisor of heads; each serves a contiguous group of heads. Default: heads."""
    conv: int = 4
    """Steps of the short convolution (followed by silu) of q, k and v. 0: silu alone."""
    negative_eigenvalues: bool = False
    """β in (0, 2) instead of (0, 1), which gives I - β k kᵀ an eigenvalue in (-1, 1) and lets it track states. Source:
    Grazzi et al. 2024."""
    gate: bool = False
    """Multiply the normed read-out by silu of a projection of the input."""
    input_std: float = 0.02
    """Standard deviation of the input projection's weights at initialisation."""
    unit_eps: float = 0.0
    """Added to the squared lengths by which q and k are divided. 0: their lengths are 1, as in the paper; 1e-6 in
    flash-linear-attention and in the models made with it, where short vectors stay short."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads", "key_size", "value_size"),
            *at_least(0, self, "conv"),
            *positive(self, "input_std"),
            at_least_zero(self, "unit_eps"),
            expect_divisor(self.heads, self, "key_heads"),
        )


class DeltaMixer(KeyValueMixer):
    """S <- α_t S, then n times S <- (I - β k kᵀ) S + β k vᵀ, and y_t = S_tᵀ q_t / √K, RMS-normed per head.

    Args:
        width: channels of the input and output.
        config: the options.
        decay: whether there is a forget gate α_t per head; without one α_t = 1.
        micro_steps: n, delta rules per step, each with a key, a value and a β of its own.
    """

    def __init__(self, width: int, config: DeltaConfig, *, decay: bool, micro_steps: int) -> None:
        super().__init__()
        H, K, V, n = config.heads, config.key_size, config.value_size, micro_steps
        self.config, self.width, self.shape = config, width, (H, K, V)
        self.micro_steps, self.multiply_adds = n, 4 * n
        G = config.key_heads or H
        self.inputs = HeadInputs(width, ((G, K), (n * G, K), (n * H, V)), config.conv, silu=True, std=config.input_std)
        self.beta = projection(width, n * H)
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
        k, v, beta = (self._split_micro_steps(a) for a in (k, v, self._beta(x, mask)))
        q, k = (expand_heads(l2_normalise(a, self.config.unit_eps), self.config.heads) for a in (q, k))
        decay = None
        if self.forget is not None and self.forget_gate is not None:
            decay = zero_padding(self.forget_gate(self.forget(x)), mask)
        q = q / math.sqrt(self.config.key_size)
        y, scan = gated_delta_product(q, k, v, beta, decay, micro_steps=self.micro_steps, state=state.scan, reset=reset)
        y = self.norm(y).flatten(2)
        return self.output(y if self.gate is None else y * silu(self.gate(x))), KeyValueState(conv, scan)

    def _beta(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """β of every delta rule [B, T, n·H], in the dtype of the norm; 0 at padded steps, where S stays as it is."""
        beta = torch.sigmoid(self.beta(x).to(self.norm.weight.dtype))
        return zero_padding(2 * beta if self.config.negative_eigenvalues else beta, mask)

    def _split_micro_steps(self, x: Tensor) -> Tensor:
        """x [B, T, n·heads, ...] -> [B, T·n, heads, ...]: the micro-steps become steps of the sequence."""
        return x.unflatten(2, (self.micro_steps, -1)).flatten(1, 2)
