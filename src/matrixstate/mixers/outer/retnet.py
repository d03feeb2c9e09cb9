"""RetNet's retention: linear attention with a fixed decay per head and rotary positions."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, silu

from matrixstate.errors import require
from matrixstate.layers.heads import HeadInputs, KeyValueMixer
from matrixstate.layers.mixer import (
    About,
    MixerConfig,
    StateMatrices,
    at_least,
    check_inputs,
    make_config,
    positive,
    zero_padding,
)
from matrixstate.layers.positions import count_positions, rotate
from matrixstate.layers.projection import projection, xavier_parts
from matrixstate.ops import accumulation_dtype, outer_scan


@dataclass(frozen=True)
class RetNetConfig(MixerConfig):
    """S_t = γ_h S_{t-1} + k_t v_tᵀ, y_t = S_tᵀ q_t, with γ_h = 1 - 2^{-5-h} and rotary q and k / √K.

    The read-out is normalised per head (group norm without affine parameters) and gated with silu(G x).
    Source: Sun et al. 2023, "Retentive Network". As in their code, positions are rotary without xPos' scaling, whose
    decay γ takes over.
    """

    about: ClassVar[About] = About(
        recurrence="S = γ_h S + k vᵀ; y = Sᵀ q; γ_h = 1 - 2^(-5-h), rotary q and k",
        state="heads x key_size x value_size",
        op="outer_scan",
        source="Sun et al. 2023, arXiv:2307.08621",
    )

    heads: int = 4
    """Number of heads H; the decay of head h, counted from 0, is 1 - 2^{-5-h} per step."""
    key_size: int = 32
    """K, channels of a head's queries and keys; even."""
    value_size: int = 64
    """V, channels of a head's values; 2 K in the paper."""
    conv: int = 0
    """Steps of a short convolution (followed by silu) of q, k and v. The paper has no convolution."""
    input_std: float | None = None
    """Standard deviation of the input projection's weights at initialisation. Default: the paper's initialisation."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads", "key_size", "value_size"),
            *at_least(0, self, "conv"),
            *positive(self, "input_std"),
            (self.key_size % 2 == 0, f"key_size: expected an even number, got {self.key_size}"),
        )

    def make(self, width: int) -> "RetNet":
        return RetNet(width, self)


class RetNetState(NamedTuple):
    """What a RetNet mixer carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, channels of the inputs]; None without a convolution
    scan: Tensor | None  # [B, H, K, V]; None before the first step
    position: Tensor  # [B] int64, the position of the next step in its document


class RetNet(KeyValueMixer):
    """The mixer of `RetNetConfig`.

    At initialisation the weights are uniform by Xavier's rule, with gain 2^{-2.5} for q, k, v and the gate and 2^{-1}
    for the output, as in the authors' code. With `input_std` they are normal, with 0.02 for the gate and the output.
    """

    multiply_adds = 3

    def __init__(self, width: int, config: RetNetConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(RetNetConfig, width, config, options)
        H, K, V = config.heads, config.key_size, config.value_size
        self.config, self.width, self.shape = config, width, (H, K, V)
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), config.conv, std=config.input_std or 0.02)
        self.gate = projection(width, H * V)
        self.output = projection(H * V, width)
        if config.input_std is None:
            parts = (self.inputs.projection.weight, (H * K, H * K, H * V)), (self.gate.weight, (H * V,))
            xavier_parts(parts, 2**-2.5)
            xavier_parts([(self.output.weight, (width,))], 2**-1)

    def forward(
        self, x: Tensor, state: RetNetState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, RetNetState]:
        x, reset = check_inputs("RetNet", x, self.width, mask, reset)
        state = self._start(x) if state is None else state
        B, T, _ = x.shape
        (q, k, v), conv = self.inputs(x, state.conv, mask, reset)
        position, following = count_positions(state.position, T, mask, reset)
        q, k = rotate(q, position), rotate(k, position) / math.sqrt(self.config.key_size)
        decay = zero_padding(self.log_decay(accumulation_dtype(x.dtype)).expand(B, T, -1), mask)
        y, scan = outer_scan(q, zero_padding(k, mask), v, log_decay=decay, state=state.scan, reset=reset)
        y = layer_norm(y.to(decay.dtype), y.shape[-1:], eps=1e-5).to(y.dtype).flatten(2)
        return self.output(y * silu(self.gate(x))), RetNetState(conv, scan, following)

    def log_decay(self, dtype: torch.dtype) -> Tensor:
        """log γ_h, natural logarithm [H]."""
        head = torch.arange(self.config.heads, dtype=dtype, device=self.output.weight.device)
        return torch.log1p(-torch.exp2(-5 - head))  # γ is so near 1 that log(γ) would lose digits

    def _start(self, x: Tensor) -> RetNetState:
        return RetNetState(None, None, torch.zeros(x.shape[0], dtype=torch.int64, device=x.device))

    def init_state(self, batch: int) -> RetNetState:
        zero = torch.zeros(batch, dtype=torch.int64, device=self.output.weight.device)
        return RetNetState(self.inputs.init_state(batch), self._zeros(batch), zero)

    def state_matrices(self, state: RetNetState) -> StateMatrices | None:
        return None if state.scan is None else StateMatrices(state.scan)
