"""GSS: a gated unit around a state space model whose kernel is a sum of shared exponentials (DSS)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from matrixstate.errors import require
from matrixstate.layers.discretise import complex_expm1
from matrixstate.layers.mixer import About, Mixer, MixerConfig, at_least, check_inputs, make_config
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, lti_scan


@dataclass(frozen=True)
class GSSConfig(MixerConfig):
    """y_t = W_o ((W_g s_t) gelu(W_u x_t)), s_t = Re Σ_n C_n h_tn, h_t = e^Λ h_{t-1} + (e^Λ - 1)/Λ gelu(W_v x_t).

    Λ = -e^a + i e^b of N states is shared by all channels of v, each with C of its own (DSS with a step of 1 and Re C
    in place of conjugate pairs). Source: Mehta et al. 2022, "Long Range Language Modeling via Gated State Spaces"; DSS:
    Gupta et al. 2022, "Diagonal State Spaces are as Effective as Structured State Spaces".
    """

    about: ClassVar[About] = About(
        recurrence="h = e^Λ h + (e^Λ - 1)/Λ gelu(W x); y = (W Re(C·h)) gelu(W x), Λ constant, shared by channels",
        state="channels x states x 2",
        op="lti_scan",
        source="Mehta et al. 2022, arXiv:2206.13947; Gupta et al. 2022, arXiv:2203.14343",
        forms=("chunked", "step"),
    )

    channels: int | None = None
    """Channels of v, which the state space model sees. Default: a quarter of the width, at least 1."""
    expand: int = 4
    """Channels of the gate, as a multiple of the width."""
    states: int = 64
    """N, complex states of a channel; 512 in the paper."""

    def __post_init__(self) -> None:
        C = self.channels
        require((C is None or C > 0, f"channels: expected at least 1, got {C}"), *at_least(1, self, "expand", "states"))

    def make(self, width: int) -> "GSS":
        return GSS(width, self)


class GSS(Float32Parameters, Mixer):
    """The mixer of `GSSConfig`. State [B, channels, N, 2], real and imaginary parts.

    At initialisation Re Λ is -1/2, Im Λ goes log-uniformly from 1e-3 to π, and C is normal with variance 1/N; maps of n
    inputs are normal with variance 1/n.
    """

    float32 = no_weight_decay = ("log_rate", "log_frequency")

    def __init__(self, width: int, config: GSSConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(GSSConfig, width, config, options)
        self.config, self.width, self.channels = config, width, config.channels or max(width // 4, 1)
        C, N, inner = self.channels, config.states, config.expand * width
        self.inputs = projection(width, inner + C, 1 / math.sqrt(width))  # of the gate and of v
        self.log_rate = nn.Parameter(torch.full((N,), math.log(0.5)))
        self.log_frequency = nn.Parameter(torch.empty(N).uniform_(math.log(1e-3), math.log(math.pi)))
        self.readout = nn.Parameter(torch.randn(C, N, 2) / math.sqrt(2 * N))
        self.expand = projection(C, inner, 1 / math.sqrt(C))
        self.output = projection(inner, width, 1 / math.sqrt(inner))

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("GSS", x, self.width, mask, reset)
        gate, v = gelu(self.inputs(x)).split([self.expand.out_features, self.channels], dim=-1)
        log_decay = torch.complex(-self.log_rate.exp(), self.log_frequency.exp())
        C = torch.view_as_complex(self.readout.to(self.log_rate.dtype))
        weight = C * complex_expm1(log_decay) / log_decay
        before = None if state is None else torch.view_as_complex(state)
        s, last = lti_scan(v, log_decay.expand_as(weight), weight, state=before, mask=mask, reset=reset)
        return self.output(self.expand(s) * gate), torch.view_as_real(last)

    def init_state(self, batch: int) -> Tensor:
        return self.readout.new_zeros(batch, *self.readout.shape, dtype=accumulation_dtype(self.readout.dtype))

    def mixing_flops(self, length: int) -> int:
        """The recurrence and the read-out: a complex multiply-add is four real ones."""
        return 6 * self.readout.numel()
