"""TransNormer: linear attention with a fixed decay per head and a norm instead of a denominator."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import rms_norm, silu

from matrixstate.layers.heads import HeadInputs, HeadInputsConfig, ScanMixer
from matrixstate.layers.mixer import About, fraction, make_config, zero_padding
from matrixstate.layers.norm import EPS
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, outer_scan


@dataclass(frozen=True)
class TransNormerConfig(HeadInputsConfig):
    """S_t = λ_h S_{t-1} + k_t v_tᵀ, y_t = S_tᵀ q_t, with λ_h = exp(-(8 h/H) (1 - depth)) for head h from 0.

    q and k pass silu; the read-out is RMS-normed over all heads without weights and multiplied by a projection of x.
    Source: Qin et al. 2023, "TransNormerLLM"; its kernels are lightning attention. The rotary positions of the paper's
    first layer are left out.
    """

    about: ClassVar[About] = About(
        recurrence="S = λ_h S + k vᵀ; y = Sᵀ q; λ_h = exp(-(8 h/H) (1 - depth)); q, k through silu",
        state="heads x key_size x value_size",
        op="outer_scan",
        source="Qin et al. 2023, arXiv:2307.14995",
    )

    depth: float = 0.0
    """Where the layer stands, l/L for layer l of L from 0: decays are slower in later layers, and head 0 has none. A
    mixer does not know its layer."""

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
        self.output = projection(H * V, width)

    def mix(
        self, x: Tensor, inputs: list[Tensor], scan: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = inputs
        H, dtype = self.config.heads, accumulation_dtype(x.dtype)
        rate = torch.arange(H, dtype=dtype, device=x.device) * (8 / H * (1 - self.config.depth))
        decay = zero_padding(-rate.expand(*x.shape[:2], H), mask)
        y, scan = outer_scan(silu(q), zero_padding(silu(k), mask), v, log_decay=decay, state=scan, reset=reset)
        y = y.flatten(2)
        return rms_norm(y.to(dtype), y.shape[-1:], eps=EPS).to(y.dtype) * self.gate(x), scan
