"""The forget gate of Mamba-2 and M²RNN: f = exp(-e^{A_log} softplus(z + dt_bias)), in (0, 1)."""

import math

import torch
from torch import Tensor, nn

from matrixstate.layers.parameters import Float32Parameters


class ForgetGate(Float32Parameters):
    """Turns one number per head into the share of the old state that is kept.

    At the start A = e^{A_log} is uniform in (0, 16) and softplus(dt_bias) log-uniform in [step_min, step_max], so the
    heads' memories reach over different lengths. Source: Mamba-2's initialisation, kept by M²RNN.
    """

    no_weight_decay = float32 = ("A_log", "dt_bias")

    def __init__(
        self, heads: int, step_min: float = 1e-3, step_max: float = 0.1, rate_min: float = 1e-4, rate_max: float = 16
    ) -> None:
        super().__init__()
        rate = torch.empty(heads).uniform_(rate_min, rate_max)
        step = torch.empty(heads).uniform_(math.log(step_min), math.log(step_max)).exp()
        self.A_log = nn.Parameter(rate.log())
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def step(self, z: Tensor) -> Tensor:
        """z [..., heads] -> softplus(z + dt_bias), the step size, at least float32."""
        z = z.to(self.A_log.dtype) + self.dt_bias
        return torch.logaddexp(z, torch.zeros_like(z))  # compiled, softplus misjudges the strides of its gradient

    def log_decay(self, z: Tensor) -> Tensor:
        """z [..., heads] -> log f [..., heads], natural logarithm, at least float32."""
        return -self.A_log.exp() * self.step(z)

    def forward(self, z: Tensor) -> Tensor:
        """z [..., heads] -> f [..., heads], probability, at least float32."""
        return torch.exp(self.log_decay(z))


class LogForgetGate(ForgetGate):
    """The same gate for recurrences that take log f, which says more than f where f is nearly 1 or 0."""

    def forward(self, z: Tensor) -> Tensor:
        """z [..., heads] -> log f [..., heads], natural logarithm, at least float32."""
        return self.log_decay(z)
