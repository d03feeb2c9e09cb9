"""S5: a diagonal state space model with many inputs and outputs, started from the HiPPO matrix of Legendre scales."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matrixstate.layers.discretise import complex_expm1
from matrixstate.layers.mixer import About, at_least, make_config, require_width
from matrixstate.mixers.scan.complex_mixer import ComplexConfig, ComplexMixer


@dataclass(frozen=True)
class S5Config(ComplexConfig):
    """h_t = e^{Δ λ} h_{t-1} + (e^{Δ λ} - 1)/λ (B x_t), y_t = 2 Re(C h_t) + D x_t, with λ = -e^ρ + i ω and Δ per state.

    That is dh/dt = λ h + B x with x held over steps of length Δ. Each state stands for itself and its conjugate, hence
    the 2. The real part of λ is negative by its form, where the authors' code may clip it. The output is W_1 z σ(W_2 z)
    of z = gelu(y_t), one of the authors' activations, without biases. Source: Smith et al. 2023, "Simplified State
    Space Layers for Sequence Modeling".
    """

    about: ClassVar[About] = About(
        recurrence="h = e^(Δ λ) h + (e^(Δ λ) - 1)/λ (B x); y = 2 Re(C h) + D x; λ constant and complex per channel",
        state="states x 2",
        op="linear_scan",
        source="Smith et al. 2023, arXiv:2208.04933",
        forms=("parallel", "chunked", "step"),
    )

    blocks: int = 8
    """Copies of the HiPPO matrix whose eigenvalues λ starts from, a divisor of the states."""
    step_min: float = 1e-3
    """Smallest Δ at initialisation."""
    step_max: float = 0.1
    """Largest Δ at initialisation, at least `step_min`."""

    def checks(self) -> list[tuple[bool, str]]:
        low, high, N = self.step_min, self.step_max, self.states
        divides = N is None or self.blocks < 1 or N % self.blocks == 0
        return [
            *super().checks(),
            *at_least(1, self, "blocks"),
            (divides, f"blocks: expected a divisor of states = {N}, got {self.blocks}"),
            (0 < low <= high < math.inf, f"step_min: expected a positive number up to step_max = {high}, got {low}"),
        ]

    def make(self, width: int) -> "S5":
        return S5(width, self)


class S5(ComplexMixer):
    """The mixer of `S5Config`. State [B, N, 2].

    At initialisation each block has the eigenvalues of `legendre_frequencies`, with real parts of -1/2, and Δ is
    log-uniform. B and C are normal with variances 1/(4 N) and 1/(2 N) per part: what the authors' real B and complex C
    become in the basis of the eigenvectors, which is unitary, but for the tails that they cut off. ρ, ω and log Δ stay
    float32 under narrower dtypes and have no weight decay, and a learning rate of at most 1e-3, as the authors do.
    """

    no_weight_decay = float32 = ("rho", "omega", "log_step")
    learning_rate_caps: ClassVar[dict[str, float]] = dict.fromkeys(float32, 1e-3)

    def __init__(self, width: int, config: S5Config | None = None, **options: Any) -> None:
        config = make_config(S5Config, width, config, options)
        if config.states is None:
            require_width("s5", width, config.blocks, "blocks")
        N = config.states or width
        super().__init__(width, N, scale=2, input_std=1 / math.sqrt(4 * N), readout_std=1 / math.sqrt(2 * N))
        self.config = config
        self.rho = nn.Parameter(torch.full((N,), math.log(0.5)))
        self.omega = nn.Parameter(torch.empty(N))
        self.log_step = nn.Parameter(torch.empty(N).uniform_(math.log(config.step_min), math.log(config.step_max)))
        with torch.no_grad():
            self.omega.copy_(legendre_frequencies(N // config.blocks).repeat(config.blocks))

    def transition(self) -> tuple[Tensor, Tensor]:
        rate, step = -self.rho.exp(), self.log_step.exp()
        x, y = step * rate, step * self.omega
        return torch.polar(x.exp(), y), complex_expm1(torch.complex(x, y)) / torch.complex(rate, self.omega)


def legendre_frequencies(n: int) -> Tensor:
    """The n negative imaginary parts of the eigenvalues of the HiPPO matrix (LegS) of size 2n, without its rank-1 part.

    That matrix is -1/2 and a skew one, whose eigenvalues are found in float64. Source: Gu et al. 2020, "HiPPO"; Gu et
    al. 2022, "Efficiently Modeling Long Sequences with Structured State Spaces".
    """
    root = (2 * torch.arange(2 * n, dtype=torch.float64, device="cpu") + 1).sqrt()
    skew = torch.triu(torch.outer(root, root), 1) / 2
    return torch.linalg.eigvalsh(-1j * (skew - skew.T))[:n]  # in ascending order
