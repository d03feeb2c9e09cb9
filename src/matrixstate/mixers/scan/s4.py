"""S4: a state space model per channel whose transition is normal plus one of low rank, started from HiPPO's LegS."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from matrixstate.errors import require
from matrixstate.layers.discretise import bilinear
from matrixstate.layers.hippo import legs_normal, real_form
from matrixstate.layers.mixer import About, Mixer, MixerConfig, at_least, check_inputs, make_config, positive
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, dense_lti_scan


@dataclass(frozen=True)
class S4Config(MixerConfig):
    """h_t = Ā h_{t-1} + b̄ x_t, y_t = 2 Re Σ_n C_n h_tn + D x_t, per channel, of pairs of N conjugate states.

    Ā = (I - ΔA/2)⁻¹ (I + ΔA/2) and b̄ = (I - ΔA/2)⁻¹ Δb with A = diag(Λ) - P P* and a step Δ per channel; Λ, P and b are
    learned, of every channel by itself. The output is (W_1 z) σ(W_2 z) of z = gelu(y_t). Δ, Λ, P and b have a learning
    rate of at most 1e-3, as the authors do. C itself is kept, not the C (I - Ā^L) of a kernel of L steps. Source: Gu et
    al. 2022, "Efficiently Modeling Long Sequences with Structured State Spaces".
    """

    about: ClassVar[About] = About(
        recurrence="h = Ā h + b̄ x; y = 2 Re(C·h) + D x; Ā, b̄ bilinear of A = diag(Λ) - P P*, N/2 complex per channel",
        state="width x states",
        op="dense_lti_scan",
        source="Gu et al. 2022, arXiv:2111.00396",
        forms=("chunked", "step"),
    )

    states: int = 64
    """N, real numbers of a channel's state: N/2 complex ones; even."""
    step_min: float = 1e-3
    """Smallest Δ at initialisation."""
    step_max: float = 0.1
    """Largest Δ at initialisation."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "states"),
            (self.states % 2 == 0, f"states: expected an even number, got {self.states}"),
            *positive(self, "step_min", "step_max"),
        )

    def make(self, width: int) -> "S4":
        return S4(width, self)


class S4(Float32Parameters, Mixer):
    """The mixer of `S4Config`. State [B, width, N]: N/2 real parts, then the imaginary ones.

    At initialisation Λ, P and b are those of LegS (`legs_normal`), Δ is log-uniform from `step_min` to `step_max`, C
    and D are normal with variance 1, and the two maps of the GLU normal with variance 1/width.
    """

    float32 = no_weight_decay = ("log_step", "log_rate", "frequency", "low_rank", "write")
    learning_rate_caps: ClassVar[dict[str, float]] = dict.fromkeys(float32, 1e-3)

    def __init__(self, width: int, config: S4Config | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(S4Config, width, config, options)
        self.config, self.width, N = config, width, config.states
        self.log_step = nn.Parameter(torch.empty(width).uniform_(math.log(config.step_min), math.log(config.step_max)))
        self.log_rate = nn.Parameter(torch.full((width, N // 2), math.log(0.5)))  # of -Re Λ
        self.frequency = nn.Parameter(torch.empty(width, N // 2))  # Im Λ
        self.low_rank = nn.Parameter(torch.zeros(width, N))  # Re P, then Im P
        self.write = nn.Parameter(torch.zeros(width, N))  # Re b, then Im b
        self.readout = nn.Parameter(torch.randn(width, N) / math.sqrt(2))  # Re C, then -Im C
        self.skip = nn.Parameter(torch.randn(width))
        self.gate = projection(width, width, 1 / math.sqrt(width))
        self.output = projection(width, width, 1 / math.sqrt(width))
        decay, P = legs_normal(N)
        with torch.no_grad():
            self.frequency.copy_(decay.imag)
            self.low_rank[:, : N // 2].copy_(P)
            self.write[:, : N // 2].copy_(math.sqrt(2) * P)

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("S4", x, self.width, mask, reset)
        transition, write = bilinear(self.continuous(), self.write, self.log_step.exp())
        readout = 2 * self.readout.to(write.dtype)[:, None]
        y, last = dense_lti_scan(x, transition, write, readout, state=state, mask=mask, reset=reset)
        z = gelu(y[..., 0] + self.skip * x)
        return self.output(z) * torch.sigmoid(self.gate(z)), last

    def continuous(self) -> Tensor:
        """A as a real matrix [width, N, N] of real and imaginary parts."""
        return real_form(torch.complex(-self.log_rate.exp(), self.frequency), self.low_rank)

    def init_state(self, batch: int) -> Tensor:
        return self.readout.new_zeros(batch, *self.readout.shape, dtype=accumulation_dtype(self.readout.dtype))

    def mixing_flops(self, length: int) -> int:
        """The recurrence with a dense transition, and the read-out."""
        return 2 * self.readout.numel() * (self.config.states + 2)
