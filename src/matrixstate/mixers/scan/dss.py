"""DSS: S4D whose exponentials are normalised over a fixed length by a softmax."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matrixstate.errors import require
from matrixstate.layers.discretise import complex_expm1
from matrixstate.layers.hippo import legs_normal
from matrixstate.layers.mixer import About, MixerConfig, at_least, make_config, positive
from matrixstate.mixers.scan.s4d import S4D, S4DConfig
from matrixstate.ops import accumulation_dtype


@dataclass(frozen=True)
class DSSConfig(MixerConfig):
    """y_t = Σ_l K_l x_{t-l} + D x_t, K_l = Re Σ_n C_n/A_n e^{lΔA_n} / Σ_{r<L} e^{rΔA_n}, per channel, N exponentials.

    That is softmax(lΔA_n) over the lags of a sequence of L steps. L is an option here, so that the function does not
    depend on the length of an input, and lags beyond L continue the exponentials. A has negative real parts, where the
    authors also admit positive ones, and is of every channel by itself. The output is as that of S4D. DSS with
    exponentials alone is S4D by zero-order hold. Source: Gupta et al. 2022, "Diagonal State Spaces are as Effective as
    Structured State Spaces" (DSS_softmax).
    """

    about: ClassVar[About] = About(
        recurrence="h = e^(Δ A) h + x; y = Re(w·h) + D x, w = C/A / Σ_r e^(r Δ A) over a fixed length, N per channel",
        state="width x states x 2",
        op="lti_scan",
        source="Gupta et al. 2022, arXiv:2203.14343",
        forms=("chunked", "step"),
    )

    states: int = 32
    """N, complex numbers of a channel's state."""
    length: int = 1024
    """L, steps over which an exponential is normalised."""
    step_min: float = 1e-3
    """Smallest Δ at initialisation."""
    step_max: float = 0.1
    """Largest Δ at initialisation."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "states", "length"), *positive(self, "step_min", "step_max"))

    def make(self, width: int) -> "DSS":
        return DSS(width, self)


class DSS(S4D):
    """The mixer of `DSSConfig`. State [B, width, N, 2], real and imaginary parts.

    Initialised as S4D, but for the imaginary parts of A, which are the positive ones of `legs_normal` of size 2N.
    """

    config: DSSConfig

    def __init__(self, width: int, config: DSSConfig | None = None, **options: Any) -> None:
        config = make_config(DSSConfig, width, config, options)
        super().__init__(width, S4DConfig(2 * config.states, "zoh", config.step_min, config.step_max))
        self.config = config
        with torch.no_grad():
            self.frequency.copy_(-legs_normal(2 * config.states)[0].imag)

    def system(self) -> tuple[Tensor, Tensor]:
        """ΔA and the weights of the exponentials [width, N], complex."""
        A = torch.complex(-self.log_rate.exp(), self.frequency)
        C = torch.view_as_complex(self.readout.to(accumulation_dtype(self.log_rate.dtype)))
        log_decay = self.log_step.exp()[:, None] * A
        # Σ_{r<L} e^{rz} = (e^{Lz} - 1) / (e^z - 1)
        return log_decay, C / A * complex_expm1(log_decay) / complex_expm1(self.config.length * log_decay)
