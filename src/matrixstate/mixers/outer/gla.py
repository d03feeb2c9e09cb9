"""Gated linear attention: linear attention with a data-dependent decay per head and key channel."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu

from matrixstate.errors import require
from matrixstate.layers.heads import HeadInputs, KeyValueMixer, KeyValueState
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, MixerConfig, at_least, check_inputs, make_config, positive, zero_padding
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection, xavier_parts
from matrixstate.ops import accumulation_dtype, outer_scan


@dataclass(frozen=True)
class GLAConfig(MixerConfig):
    """S_t = diag(α_t) S_{t-1} + k_t v_tᵀ, y_t = S_tᵀ q_t / √K, with α_t = σ(W_2 W_1 x_t + b)^{1/τ} per key channel.

    The read-out is RMS-normed per head and gated with silu(G x). Source: Yang et al. 2023, "Gated Linear Attention".
    """

    about: ClassVar[About] = About(
        recurrence="S = diag(α) S + k vᵀ; y = Sᵀ q; α = σ(W2 W1 x + b)^(1/16) per key channel",
        state="heads x key_size x value_size",
        op="outer_scan",
        source="Yang et al. 2023, arXiv:2312.06635",
    )

    heads: int = 4
    """Number of heads H."""
    key_size: int = 32
    """K, channels of a head's queries and keys; V / 2 in the paper."""
    value_size: int = 64
    """V, channels of a head's values."""
    rank: int = 16
    """Channels between W_1 and W_2, the rank of the decay's projection."""
    temperature: float = 16.0
    """τ; the decay is slower where it is larger."""
    conv: int = 0
    """Steps of a short convolution (followed by silu) of q, k and v. The paper has no convolution."""
    input_std: float | None = None
    """Standard deviation of the input projection's weights at initialisation. Default: as in the authors' code."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads", "key_size", "value_size", "rank"),
            *at_least(0, self, "conv"),
            *positive(self, "temperature", "input_std"),
        )

    def make(self, width: int) -> "GLA":
        return GLA(width, self)


class GLA(KeyValueMixer):
    """The mixer of `GLAConfig`. State [B, H, K, V].

    At initialisation all weights are uniform by Xavier's rule with gain 2^{-2.5}, as in the authors' code. With
    `input_std` they are normal, with 0.02 but for the input.
    """

    multiply_adds = 3

    def __init__(self, width: int, config: GLAConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(GLAConfig, width, config, options)
        H, K, V = config.heads, config.key_size, config.value_size
        self.config, self.width, self.shape = config, width, (H, K, V)
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), config.conv, std=config.input_std or 0.02)
        self.decay = nn.Sequential(projection(width, config.rank), Linear(config.rank, H * K))
        self.gate = projection(width, H * V)
        self.norm = RMSNorm(V)
        self.output = projection(H * V, width)
        if config.input_std is None:
            parts = [(self.inputs.projection.weight, (H * K, H * K, H * V)), (self.gate.weight, (H * V,))]
            parts += [(linear.weight, (linear.out_features,)) for linear in (*self.decay, self.output)]
            xavier_parts(parts, 2**-2.5)

    def forward(
        self, x: Tensor, state: KeyValueState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, KeyValueState]:
        x, reset = check_inputs("GLA", x, self.width, mask, reset)
        state = KeyValueState(None, None) if state is None else state
        (q, k, v), conv = self.inputs(x, state.conv, mask, reset)
        logits = self.decay(x).to(accumulation_dtype(x.dtype)).unflatten(-1, self.shape[:2])
        decay = zero_padding(logsigmoid(logits) / self.config.temperature, mask)
        q = q / math.sqrt(self.config.key_size)
        y, scan = outer_scan(q, zero_padding(k, mask), v, log_decay=decay, state=state.scan, reset=reset)
        y = self.norm(y).flatten(2) * silu(self.gate(x))
        return self.output(y), KeyValueState(conv, scan)
