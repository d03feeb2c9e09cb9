"""Comba: the gated delta rule with a weaker removal than write, and a read-out that is corrected by the key."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matrixstate.layers.forget_gate import LogForgetGate
from matrixstate.layers.heads import HeadInputs, HeadInputsConfig, ScanMixer, l2_normalise
from matrixstate.layers.mixer import About, make_config, zero_padding
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.ops import delta_scan


@dataclass(frozen=True)
class CombaConfig(HeadInputsConfig):
    """S_t = α_t (I - β_t k_t p_tᵀ) S_{t-1} + β_t k_t v_tᵀ, y_t = S_tᵀ q_t / √K, with p_t = σ(b) k_t, |k| = |q| = 1.

    q_t is the normalised difference of the query and D p_t, with D and b learned per head; β_t = σ(w x_t) and α_t is
    Mamba-2's forget gate. q, k and v come from a short convolution and silu; the read-out is RMS-normed per head and
    gated with σ(G x_t). Source: Hu et al. 2025, "Comba: Improving Bilinear RNNs with Closed-loop Control". The kernels
    of flash-linear-attention, when asked to normalise, normalise p_t too, which takes σ(b) out of it; here it stays.
    """

    about: ClassVar[About] = About(
        recurrence="S = α (I - β k pᵀ) S + β k vᵀ; y = Sᵀ (q - D p); p = σ(b) k, |k| = 1, β = σ(w x), α = e^(-A Δ)",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="delta_scan",
        source="Hu et al. 2025, arXiv:2506.02475",
    )

    conv: int = 4
    """Steps of the short convolution (followed by silu) of q, k and v. 0: silu alone."""
    correction: float = 1.0
    """D at initialisation; the authors find 0.02 better for some small models."""

    def make(self, width: int) -> "Comba":
        return Comba(width, self)


class Comba(ScanMixer):
    """The mixer of `CombaConfig`. State [B, H, K, V]. At initialisation b is 1."""

    multiply_adds = 4

    no_weight_decay = ("removal", "correction")

    def __init__(self, width: int, config: CombaConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(CombaConfig, width, config, options)
        H, K, V = config.shape
        self.config, self.width, self.shape = config, width, config.shape
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), config.conv, silu=True, std=config.input_std)
        self.beta, self.forget = projection(width, H), projection(width, H)
        self.forget_gate = LogForgetGate(H)
        self.removal = nn.Parameter(torch.ones(H))
        self.correction = nn.Parameter(torch.full((H,), config.correction))
        self.gate = projection(width, H * V)
        self.norm = RMSNorm(V)
        self.output = projection(H * V, width)

    def mix(
        self, x: Tensor, inputs: list[Tensor], scan: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        q, k, v = inputs
        removal, dtype = torch.sigmoid(self.removal), k.dtype
        q = l2_normalise((q - (self.correction * removal)[:, None] * k).to(dtype)) / math.sqrt(self.config.key_size)
        k = l2_normalise(k)
        beta = zero_padding(torch.sigmoid(self.beta(x).to(self.norm.weight.dtype)), mask)
        decay = zero_padding(self.forget_gate(self.forget(x)), mask)
        read, written = (decay.exp() * removal)[..., None] * k, beta[..., None] * k
        y, scan = delta_scan(q, written.to(dtype), v, read=read.to(dtype), log_decay=decay, state=scan, reset=reset)
        return self.norm(y).flatten(2) * torch.sigmoid(self.gate(x)), scan
