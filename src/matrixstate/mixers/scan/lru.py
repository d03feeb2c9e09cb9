"""LRU: a complex linear recurrence per channel, its constant decays started in a ring within the unit circle."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matrixstate.layers.mixer import About, make_config
from matrixstate.mixers.scan.complex_mixer import ComplexConfig, ComplexMixer


@dataclass(frozen=True)
class LRUConfig(ComplexConfig):
    """h_t = λ h_{t-1} + e^γ (B x_t), y_t = Re(C h_t) + D x_t, with λ = exp(-e^ν + i e^θ) per state.

    The output is (W_1 z) σ(W_2 z) of z = gelu(y_t), without the biases that it has in the paper. Source: Orvieto et al.
    2023, "Resurrecting Recurrent Neural Networks for Long Sequences".
    """

    about: ClassVar[About] = About(
        recurrence="h = λ h + e^γ (B x); y = Re(C h) + D x; λ = exp(-e^ν + i e^θ), constant and complex per channel",
        state="states x 2",
        op="linear_scan",
        source="Orvieto et al. 2023, arXiv:2303.06349",
        forms=("parallel", "chunked", "step"),
    )

    r_min: float = 0.0
    """Smallest |λ| at initialisation."""
    r_max: float = 1.0
    """Largest |λ| at initialisation, above `r_min` and at most 1. For long sequences the paper has a ring near 1."""
    max_phase: float = 2 * math.pi
    """Largest phase of λ at initialisation, in radians; π/10 and less for long sequences in the paper."""

    def checks(self) -> list[tuple[bool, str]]:
        low, high, phase = self.r_min, self.r_max, self.max_phase
        return [
            *super().checks(),
            (0 <= low < high <= 1, f"r_min, r_max: expected 0 <= r_min < r_max <= 1, got {low} and {high}"),
            (0 < phase <= 2 * math.pi, f"max_phase: expected a number above 0 and at most 2π, got {phase}"),
        ]

    def make(self, width: int) -> "LRU":
        return LRU(width, self)


class LRU(ComplexMixer):
    """The mixer of `LRUConfig`. State [B, N, 2].

    At initialisation λ is uniform by area in the ring up to `max_phase`, e^γ is √(1 - |λ|²), and B and C are normal
    with variances 1/(2 width) and 1/states per part. ν, θ and γ, logarithms of rates, stay float32 in narrower models.
    """

    no_weight_decay = float32 = ("nu", "theta", "gamma")

    def __init__(self, width: int, config: LRUConfig | None = None, **options: Any) -> None:
        config = make_config(LRUConfig, width, config, options)
        N = config.states or width
        super().__init__(width, N, scale=1, input_std=1 / math.sqrt(2 * width), readout_std=1 / math.sqrt(N))
        self.config = config
        # |λ|² and the phase are kept off 0, and |λ|² off 1, where their logarithms are infinite
        squares = torch.empty(self.states).uniform_(config.r_min**2, config.r_max**2).clamp(1e-12, 1 - 1e-7)
        phase = torch.empty(self.states).uniform_(0, config.max_phase).clamp(min=1e-12)
        self.nu = nn.Parameter(torch.log(-squares.log() / 2))
        self.theta = nn.Parameter(phase.log())
        self.gamma = nn.Parameter(torch.log1p(-squares) / 2)

    def transition(self) -> tuple[Tensor, Tensor]:
        return torch.polar(torch.exp(-self.nu.exp()), self.theta.exp()), self.gamma.exp()
