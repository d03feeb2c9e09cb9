"""The forget gate of Mamba-2 and M²RNN: f = exp(-e^{A_log} softplus(z + dt_bias)), in (0, 1)."""

import math

import torch
from torch import Tensor, nn

from matrixstate.layers.parameters import Float32Parameters


class ForgetGate(Float32Parameters):
    """Maps one number z per head to the factor f by which the state decays in a step.

    Made with (heads, channels), z, f and dt_bias have a number per channel of each head, and A_log is [heads, 1].
    Both parameters stay float32 under narrower dtypes and have no weight decay. At initialisation the rate
    A = e^{A_log} is uniform in (rate_min, rate_max) and the step size softplus(dt_bias) log-uniform in [step_min,
    step_max], so that heads start with decays over many lengths. Source: the initialisation of Mamba-2, also M²RNN's.
    """

    no_weight_decay = float32 = ("A_log", "dt_bias")

    def __init__(
        self,
        heads: int | tuple[int, int],
        step_min: float = 1e-3,
        step_max: float = 0.1,
        rate_min: float = 1e-4,
        rate_max: float = 16,
    ) -> None:
        super().__init__()
        rates = heads if isinstance(heads, int) else (heads[0], 1)
        rate = torch.empty(rates).uniform_(rate_min, rate_max)
        step = torch.empty(heads).uniform_(math.log(step_min), math.log(step_max)).exp()
        self.A_log = nn.Parameter(rate.log())
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus

    def step(self, z: Tensor) -> Tensor:
        """z [..., heads] -> the step size softplus(z + dt_bias) [..., heads], in the dtype of the parameters."""
        z = z.to(self.A_log.dtype) + self.dt_bias
        # log(e^z + 1) is softplus, whose gradient torch.compile traces with wrong strides
        return torch.logaddexp(z, torch.zeros_like(z))

    def log_decay(self, z: Tensor) -> Tensor:
        """z [..., heads] -> log f [..., heads], natural logarithm, in the dtype of the parameters."""
        return -self.A_log.exp() * self.step(z)

    def forward(self, z: Tensor) -> Tensor:
        """z [..., heads] -> f [..., heads] in (0, 1), in the dtype of the parameters."""
        return torch.exp(self.log_decay(z))


class LogForgetGate(ForgetGate):
    """`ForgetGate` that returns log f, which keeps its precision where f is nearly 1 or 0."""

    def forward(self, z: Tensor) -> Tensor:
        """z [..., heads] -> log f [..., heads], natural logarithm, in the dtype of the parameters."""
        return self.log_decay(z)
