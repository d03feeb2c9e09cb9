"""Liquid S4: S4D whose decay depends on the input."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from matrixstate.layers.discretise import complex_expm1
from matrixstate.layers.mixer import About, check_inputs, make_config
from matrixstate.mixers.scan.s4d import S4D, S4DConfig
from matrixstate.ops import linear_scan


@dataclass(frozen=True)
class LiquidS4Config(S4DConfig):
    """h_t = (ā + b̄ x_t) h_{t-1} + b̄ x_t, y_t = 2 Re Σ_n C_n h_tn + D x_t, per channel, elementwise.

    S4D with b̄ = (ā - 1)/A b of a learned b, but for the decay, which an input moves. Nothing keeps it below 1: a model
    that was trained on short sequences may overflow on long ones, unless `bounded`. This is the recurrence itself, of
    whose sum of products of inputs the authors keep a few terms. Source: Hasani et al. 2023, "Liquid Structural
    State-Space Models".
    """

    about: ClassVar[About] = About(
        recurrence="h = (ā + b̄ x) h + b̄ x; y = 2 Re(C·h) + D x; ā = e^(Δ A), b̄ = (ā - 1)/A b, N/2 complex per channel",
        state="width x states",
        op="linear_scan",
        source="Hasani et al. 2023, arXiv:2209.12951",
        forms=("parallel", "chunked", "step"),
    )

    bounded: bool = False
    """Divide a decay by its modulus where that is above 1 (ours): the state then grows no faster than a sum."""

    def make(self, width: int) -> "LiquidS4":
        return LiquidS4(width, self)


class LiquidS4(S4D):
    """The mixer of `LiquidS4Config`. State and initialisation as S4D, and b = 1."""

    float32 = no_weight_decay = (*S4D.float32, "write")
    learning_rate_caps: ClassVar[dict[str, float]] = dict.fromkeys(float32, 1e-3)

    def __init__(self, width: int, config: LiquidS4Config | None = None, **options: Any) -> None:
        config = make_config(LiquidS4Config, width, config, options)
        super().__init__(width, config)
        self.bounded = config.bounded
        self.write = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(*self.frequency.shape, 1))  # b

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("LiquidS4", x, self.width, mask, reset)
        decay, gain, C = self.liquid()
        write = gain * x[..., None]
        decay = decay + write
        if self.bounded:
            decay = decay / decay.abs().clamp(min=1)
        if mask is not None:  # x is zero at padding, so that nothing is written there
            decay = torch.where(mask[..., None, None], decay, 1)
        before = None if state is None else torch.view_as_complex(state)
        h, last = linear_scan(write, decay=decay, state=before, reset=reset)
        y = 2 * (C * h).sum(-1).real
        z = gelu(y.to(x.dtype) + self.skip * x)
        return self.output(z) * torch.sigmoid(self.gate(z)), torch.view_as_real(last)

    def liquid(self) -> tuple[Tensor, Tensor, Tensor]:
        """ā, b̄ and C [width, N/2], complex."""
        A, step = torch.complex(-self.log_rate.exp(), self.frequency), self.log_step.exp()[:, None]
        b, C = torch.view_as_complex(self.write), torch.view_as_complex(self.readout.to(self.write.dtype))
        if self.config.rule == "zoh":
            change = complex_expm1(step * A)
            return 1 + change, change / A * b, C
        half = step * A / 2
        return (1 + half) / (1 - half), step / (1 - half) * b, C
