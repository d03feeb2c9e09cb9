"""HGRN2: linear attention whose keys are what its decay leaves free."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu

from matrixstate.layers.heads import HeadInputs, KeyValueConfig, ScanMixer
from matrixstate.layers.mixer import About, make_config, positive, zero_padding
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, outer_scan


@dataclass(frozen=True)
class HGRN2Config(KeyValueConfig):
    """S_t = diag(f_t) S_{t-1} + (1 - f_t) v_tᵀ, y_t = S_tᵀ q_t, with f_t = g + (1 - g) σ(W x_t) per key channel.

    q_t = σ(W_q x_t) is the output gate of HGRN, v_t = silu(W_v x_t); the read-out is RMS-normed over all heads, where
    the authors' code has a layer norm. Source: Qin et al. 2024, "HGRN2: Gated Linear RNNs with State Expansion".
    """

    about: ClassVar[About] = About(
        recurrence="S = diag(f) S + (1 - f) vᵀ; y = Sᵀ q; f = g + (1 - g) σ(W x) per key channel",
        state="heads x key_size x value_size",
        op="outer_scan",
        source="Qin et al. 2024, arXiv:2404.07904",
    )

    input_std: float = 0.02
    """Standard deviation of the input projection's weights at initialisation."""
    lower_bound: float = 0.0
    """g in [0, 1), below which no f falls. In the paper it rises from layer to layer from 0, at the start as l/L in
    layer l of L, and is learned for all layers together; a mixer does not know its layer, so g is a constant here."""

    def checks(self) -> list[tuple[bool, str]]:
        g = self.lower_bound
        bounded = (0 <= g < 1, f"lower_bound: expected a number from 0 to below 1, got {g}")
        return [*super().checks(), *positive(self, "input_std"), bounded]

    def make(self, width: int) -> "HGRN2":
        return HGRN2(width, self)


class HGRN2(ScanMixer):
    """The mixer of `HGRN2Config`. State [B, H, K, V]."""

    multiply_adds = 3

    def __init__(self, width: int, config: HGRN2Config | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(HGRN2Config, width, config, options)
        H, K, V = config.shape
        self.config, self.width, self.shape = config, width, config.shape
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), conv=0, std=config.input_std)
        self.norm = RMSNorm(H * V)
        self.output = projection(H * V, width)

    def mix(
        self, x: Tensor, inputs: list[Tensor], scan: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q, z, v = inputs
        z, g = z.to(accumulation_dtype(x.dtype)), self.config.lower_bound
        decay = logsigmoid(z)
        if g > 0:
            decay = torch.logaddexp(torch.full_like(z, math.log(g)), decay + math.log1p(-g))
        k = zero_padding((1 - g) * torch.sigmoid(-z), mask).to(q.dtype)  # 1 - f, without its cancellation near f = 1
        y, scan = outer_scan(torch.sigmoid(q), k, silu(v), log_decay=zero_padding(decay, mask), state=scan, reset=reset)
        return self.norm(y.flatten(2)), scan
