"""ReGLA: gated linear attention with bounded exponential features and a gate that does not saturate."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from matrixstate.layers.heads import HeadInputs, HeadInputsConfig, ScanMixer
from matrixstate.layers.mixer import About, make_config, zero_padding
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, outer_scan


@dataclass(frozen=True)
class ReGLAConfig(HeadInputsConfig):
    """S_t = diag(F_t) S_{t-1} + φ(k_t) v_tᵀ, y_t = S_tᵀ φ(q_t) / (e √(K (e² - 1))), with φ(z) = exp(z - max z).

    F = (1 - r) f² + r (1 - (1 - f)²) per key channel, with f = σ(W_f x_t) and r = σ(W_r x_t): the mean f is refined
    where its own gradient vanishes. The read-out is RMS-normed per head before the output projection.
    Source: Lu et al. 2025, "ReGLA: Refining Gated Linear Attention". There the maximum of the keys is over all steps
    too, which is not causal; here it is over the channels of each step, as of the queries.
    """

    about: ClassVar[About] = About(
        recurrence="S = diag(F) S + φ(k) vᵀ; y = Sᵀ φ(q); φ(z) = exp(z - max z); F = (1-r) f² + r (1 - (1-f)²)",
        state="heads x key_size x value_size",
        op="outer_scan",
        source="Lu et al. 2025, arXiv:2502.01578",
    )

    def make(self, width: int) -> "ReGLA":
        return ReGLA(width, self)


class ReGLA(ScanMixer):
    """The mixer of `ReGLAConfig`. State [B, H, K, V]."""

    multiply_adds = 3

    def __init__(self, width: int, config: ReGLAConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(ReGLAConfig, width, config, options)
        H, K, V = config.shape
        self.config, self.width, self.shape = config, width, config.shape
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), config.conv, std=config.input_std)
        self.forget, self.refine = projection(width, H * K), projection(width, H * K)
        self.norm = RMSNorm(V)
        self.output = projection(H * V, width)

    def mix(
        self, x: Tensor, inputs: list[Tensor], scan: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = inputs
        wide = accumulation_dtype(x.dtype)
        z, r = (part(x).to(wide).unflatten(-1, self.shape[:2]) for part in (self.forget, self.refine))
        f, r = torch.sigmoid(z), torch.sigmoid(r)
        decay = logsigmoid(z) + torch.log((1 - r) * f + r * (2 - f))  # F / f, which keeps its digits at small f
        q, k = (torch.exp(a - a.amax(-1, keepdim=True)) for a in (q, k))
        q = (q / (math.e * math.sqrt(self.config.key_size * (math.e**2 - 1)))).to(v.dtype)
        k = zero_padding(k, mask).to(v.dtype)
        y, scan = outer_scan(q, k, v, log_decay=zero_padding(decay, mask), state=scan, reset=reset)
        return self.norm(y).flatten(2), scan
