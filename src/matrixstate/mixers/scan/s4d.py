"""S4D: a diagonal state space model per channel that does not depend on the token."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from matrixstate.errors import require
from matrixstate.layers.discretise import complex_expm1
from matrixstate.layers.mixer import About, Mixer, MixerConfig, at_least, check_inputs, make_config, one_of, positive
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, lti_scan


@dataclass(frozen=True)
class S4DConfig(MixerConfig):
    """h_t = ā h_{t-1} + b̄ x_t, y_t = 2 Re Σ_n C_n h_tn + D x_t, per channel, of pairs of N conjugate states.

    ā = e^{ΔA} and b̄ = (ā - 1)/A ("zoh"), or ā = (1 + ΔA/2)/(1 - ΔA/2) and b̄ = Δ/(1 - ΔA/2) ("bilinear"), with a step
    Δ per channel. The output is (W_1 z) σ(W_2 z) of z = gelu(y_t). Δ and A have a learning rate of at most 1e-3, as the
    authors do. Source: Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models".
    """

    about: ClassVar[About] = About(
        recurrence="h = ā h + b̄ x; y = 2 Re(C·h) + D x; ā = e^(Δ A), b̄ = (ā - 1)/A, constant, N/2 complex per channel",
        state="width x states",
        op="lti_scan",
        source="Gu et al. 2022, arXiv:2206.11893",
        forms=("chunked", "step"),
    )

    states: int = 64
    """N, real numbers of a channel's state: N/2 complex ones; even."""
    rule: Literal["zoh", "bilinear"] = "zoh"
    """How the continuous system is discretised."""
    step_min: float = 1e-3
    """Smallest Δ at initialisation."""
    step_max: float = 0.1
    """Largest Δ at initialisation."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "states"),
            (self.states % 2 == 0, f"states: expected an even number, got {self.states}"),
            one_of(self, "rule", "zoh", "bilinear"),
            *positive(self, "step_min", "step_max"),
        )

    def make(self, width: int) -> "S4D":
        return S4D(width, self)


class S4D(Float32Parameters, Mixer):
    """The mixer of `S4DConfig`. State [B, width, N/2, 2], real and imaginary parts.

    At initialisation A_n = -1/2 + iπn (S4D-Lin), Δ is log-uniform from `step_min` to `step_max`, C and D are normal
    with variance 1, and the two maps of the GLU normal with variance 1/width.
    """

    float32 = no_weight_decay = ("log_step", "log_rate", "frequency")
    learning_rate_caps: ClassVar[dict[str, float]] = dict.fromkeys(float32, 1e-3)

    def __init__(self, width: int, config: S4DConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(S4DConfig, width, config, options)
        self.config, self.width, N = config, width, config.states // 2
        self.log_step = nn.Parameter(torch.empty(width).uniform_(math.log(config.step_min), math.log(config.step_max)))
        self.log_rate = nn.Parameter(torch.full((width, N), math.log(0.5)))  # of -Re A
        self.frequency = nn.Parameter(math.pi * torch.arange(N).repeat(width, 1))  # Im A
        self.readout = nn.Parameter(torch.randn(width, N, 2) / math.sqrt(2))  # C
        self.skip = nn.Parameter(torch.randn(width))
        self.gate = projection(width, width, 1 / math.sqrt(width))
        self.output = projection(width, width, 1 / math.sqrt(width))

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("S4D", x, self.width, mask, reset)
        log_decay, weight = self.system()
        before = None if state is None else torch.view_as_complex(state)
        y, last = lti_scan(x, log_decay, weight, state=before, mask=mask, reset=reset)
        z = gelu(y + self.skip * x)
        return self.output(z) * torch.sigmoid(self.gate(z)), torch.view_as_real(last)

    def system(self) -> tuple[Tensor, Tensor]:
        """log ā and 2 C b̄ [width, N/2], complex."""
        wide = accumulation_dtype(self.log_step.dtype)
        A = torch.complex(-self.log_rate.exp(), self.frequency)
        C = torch.view_as_complex(self.readout.to(wide))
        step = self.log_step.exp()[:, None]
        if self.config.rule == "zoh":
            log_decay = step * A
            return log_decay, 2 * C * complex_expm1(log_decay) / A
        half = step * A / 2
        return torch.log1p(half) - torch.log1p(-half), 2 * C * step / (1 - half)

    def init_state(self, batch: int) -> Tensor:
        return self.readout.new_zeros(batch, *self.readout.shape, dtype=accumulation_dtype(self.readout.dtype))

    def mixing_flops(self, length: int) -> int:
        """The recurrence and the read-out: a complex multiply-add is four real ones."""
        return 12 * self.frequency.numel()
