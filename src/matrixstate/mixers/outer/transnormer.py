"""TransNormer: linear attention with a fixed decay per head and a norm instead of a denominator."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from matrixstate.layers.heads import HeadInputs, HeadInputsConfig, ScanMixer
from matrixstate.layers.mixer import About, fraction, make_config, zero_padding
from matrixstate.layers.norm import EPS, RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, outer_scan


@dataclass(frozen=True)
class TransNormerConfig(HeadInputsConfig):
    """S_t = λ_h S_{t-1} + k_t v_tᵀ, y_t = S_tᵀ q_t, with λ_h = exp(-(8 h/H) (1 - depth)) for head h from 0.

    q and k pass silu; the read-out is RMS-normed over all heads without weights and multiplied by a projection of x.
    With `lightning` λ_h = exp(-2^{-8 (h+1)/H} (1 - depth)), v passes silu too, the norm has weights, and the projection
    passes a sigmoid. Sources: Qin et al. 2023, "TransNormerLLM", without the rotary positions of its first layer;
    lightning: MiniMax 2025, "MiniMax-01".
    """

    about: ClassVar[About] = About(
        recurrence="S = λ_h S + k vᵀ; y = Sᵀ q; λ_h = exp(-(8 h/H) (1 - depth)); q, k through silu",
        state="heads x key_size x value_size",
        op="outer_scan",
        source="Qin et al. 2023, arXiv:2307.14995; lightning: MiniMax 2025, arXiv:2501.08313",
    )

    depth: float = 0.0
    """Where the layer stands, l/L for layer l of L from 0: decays are slower in later layers, and head 0 has none. A
    mixer does not know its layer. With `lightning` l/(L-1), and every head decays but in the last layer."""
    lightning: bool = False
    """The lightning attention of MiniMax-01 instead of TransNormerLLM's."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), fraction(self, "depth")]

    def make(self, width: int) -> "TransNormer":
        return TransNormer(width, self)


class TransNormer(ScanMixer):
    """The mixer of `TransNormerConfig`. State [B, H, K, V]."""

    multiply_adds = 3

    def __init__(self, width: int, config: TransNormerConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(TransNormerConfig, width, config, options)
        H, K, V = config.shape
        self.config, self.width, self.shape = config, width, config.shape
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), config.conv, std=config.input_std)
        self.gate = projection(width, H * V)
        self.norm = RMSNorm(H * V) if config.lightning else None
        self.output = projection(H * V, width)

    def mix(
        self, x: Tensor, inputs: list[Tensor], scan: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = inputs
        H, dtype = self.config.heads, accumulation_dtype(x.dtype)
        v = v if self.norm is None else silu(v)
        decay = zero_padding(-self._rates(dtype, x.device).expand(*x.shape[:2], H), mask)
        y, scan = outer_scan(silu(q), zero_padding(silu(k), mask), v, log_decay=decay, state=scan, reset=reset)
        y, gate = y.flatten(2), self.gate(x)
        if self.norm is not None:
            return self.norm(y) * torch.sigmoid(gate), scan
        return rms_norm(y.to(dtype), y.shape[-1:], eps=EPS).to(y.dtype) * gate, scan

    def _rates(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """-log λ of every head [H]."""
        h, H, left = (
            torch.arange(self.config.heads, dtype=dtype, device=device),
            self.config.heads,
            1 - self.config.depth,
        )
        return left * torch.exp2(-8 / H * (h + 1)) if self.config.lightning else h * (8 / H * left)
