"""LSSL: a state space model per channel with HiPPO's LegS as its transition, at many time scales."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from matrixstate.errors import require
from matrixstate.layers.discretise import bilinear
from matrixstate.layers.hippo import legs
from matrixstate.layers.mixer import About, Mixer, MixerConfig, at_least, check_inputs, make_config, positive
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, dense_lti_scan


@dataclass(frozen=True)
class LSSLConfig(MixerConfig):
    """h_t = Ā h_{t-1} + b̄ x_t, y_t = C h_t + D x_t, per channel, with M outputs of a channel; W gelu(y_t) goes out.

    Ā = (I - ΔA/2)⁻¹ (I + ΔA/2) and b̄ = (I - ΔA/2)⁻¹ Δb. All channels share A; their steps Δ span the time scales. With
    `train_transition` A is any dense matrix, where the authors learn one of a structure around LegS. Source: Gu et al.
    2021, "Combining Recurrent, Convolutional, and Continuous-time Models with Linear State-Space Layers".
    """

    about: ClassVar[About] = About(
        recurrence="h = Ā h + b̄ x; y = C h + D x; Ā constant, bilinear, of HiPPO's LegS, N per channel",
        state="width x states",
        op="dense_lti_scan",
        source="Gu et al. 2021, arXiv:2110.13985",
        forms=("chunked", "step"),
    )

    states: int = 32
    """N, states of a channel."""
    outputs: int = 1
    """M, outputs of a channel."""
    step_min: float = 1e-3
    """Smallest Δ at initialisation."""
    step_max: float = 0.1
    """Largest Δ at initialisation."""
    train_transition: bool = False
    """Whether A and Δ are trained, at a learning rate of at most 1e-3. Default: both stay as they start."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "states", "outputs"), *positive(self, "step_min", "step_max"))

    def make(self, width: int) -> "LSSL":
        return LSSL(width, self)


class LSSL(Float32Parameters, Mixer):
    """The mixer of `LSSLConfig`. State [B, width, N].

    At initialisation A and b are those of LegS, Δ is spaced evenly in its logarithm from `step_min` to `step_max`, C
    and D are normal with variance 1, and W with 1/(width M).
    """

    log_step: Tensor  # these two are parameters or, where they are not trained, buffers
    transition: Tensor

    float32 = no_weight_decay = ("log_step", "transition", "write")
    learning_rate_caps: ClassVar[dict[str, float]] = {"log_step": 1e-3, "transition": 1e-3}

    def __init__(self, width: int, config: LSSLConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(LSSLConfig, width, config, options)
        self.config, self.width, N, M = config, width, config.states, config.outputs
        log_step = torch.linspace(math.log(config.step_min), math.log(config.step_max), width)
        for name, start in (("transition", torch.empty(N, N)), ("log_step", log_step)):
            if config.train_transition:
                self.register_parameter(name, nn.Parameter(start))
            else:
                self.register_buffer(name, start)
        self.write = nn.Parameter(torch.empty(width, N))
        self.readout = nn.Parameter(torch.randn(width, M, N))
        self.skip = nn.Parameter(torch.randn(width, M))
        self.output = projection(width * M, width, 1 / math.sqrt(width * M))
        with torch.no_grad():
            for part, start in zip((self.transition, self.write), legs(N), strict=True):
                part.copy_(start)

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("LSSL", x, self.width, mask, reset)
        transition, write = bilinear(self.transition, self.write, self.log_step.exp())
        readout = self.readout.to(write.dtype)
        y, last = dense_lti_scan(x, transition, write, readout, state=state, mask=mask, reset=reset)
        return self.output(gelu(y + self.skip * x[..., None]).flatten(2)), last

    def init_state(self, batch: int) -> Tensor:
        return self.write.new_zeros(batch, *self.write.shape, dtype=accumulation_dtype(self.write.dtype))

    def mixing_flops(self, length: int) -> int:
        """The recurrence with a dense transition, and the read-out."""
        return 2 * self.write.numel() * (self.config.states + 1 + self.config.outputs)
