"""The base of the mixers with complex linear recurrences of constant decay between two dense maps."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from matrixstate.errors import require
from matrixstate.layers.mixer import Mixer, MixerConfig, check_inputs
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, linear_scan


@dataclass(frozen=True)
class ComplexConfig(MixerConfig):
    """The options that these mixers have in common."""

    states: int | None = None
    """N, complex numbers of the state. Default: the width."""

    def __post_init__(self) -> None:
        require(*self.checks())

    def checks(self) -> list[tuple[bool, str]]:
        """What `require` is told of the options; subclasses add theirs, so that all mistakes come at once."""
        return [(self.states is None or self.states > 0, f"states: expected at least 1, got {self.states}")]


class ComplexMixer(Float32Parameters, Mixer):
    """h_t = a h_{t-1} + g (B x_t), y_t = s Re(C h_t) + D x_t, then a GLU of gelu(y_t); a, g, h are complex [N].

    Complex numbers are pairs of real ones in the weights and the state. C is kept as its real part and the negative of
    its imaginary part, so that Re(C h) is a linear map of these pairs. Subclasses implement `transition`.

    Args:
        width: channels D of the input.
        states: N.
        scale: s.
        input_std, readout_std: standard deviation of each part of B and of C at initialisation, which are normal.

    D starts normal with variance 1, the two maps of the GLU with 1/width.
    State [B, N, 2]: real and imaginary parts, at least float32.
    """

    def __init__(self, width: int, states: int, scale: float, input_std: float, readout_std: float) -> None:
        super().__init__()
        self.width, self.states, self.scale = width, states, scale
        self.inputs = projection(width, 2 * states, input_std)
        self.readout = projection(2 * states, width, readout_std)
        self.skip = nn.Parameter(torch.randn(width))
        self.gate = projection(width, width, 1 / math.sqrt(width))
        self.output = projection(width, width, 1 / math.sqrt(width))

    @abstractmethod
    def transition(self) -> tuple[Tensor, Tensor]:
        """a, complex [N], and g, real or complex [N], at least float32."""

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs(type(self).__name__, x, self.width, mask, reset)
        decay, gain = self.transition()
        u = self.inputs(x)
        if mask is not None:  # B has no bias, so a padded step writes nothing already
            decay = torch.where(mask[..., None], decay, 1)
        write = gain * torch.view_as_complex(u.to(accumulation_dtype(u.dtype)).unflatten(-1, (-1, 2)).contiguous())
        before = None if state is None else torch.view_as_complex(state)
        h, last = linear_scan(write, decay=decay, state=before, reset=reset)
        y = self.scale * self.readout(torch.view_as_real(h).flatten(-2).to(u.dtype)) + self.skip * x
        y = gelu(y)
        return self.output(y) * torch.sigmoid(self.gate(y)), torch.view_as_real(last)

    def init_state(self, batch: int) -> Tensor:
        weight = self.output.weight
        return weight.new_zeros(batch, self.states, 2, dtype=accumulation_dtype(weight.dtype))

    def mixing_flops(self, length: int) -> int:
        """The recurrence: a complex multiply-add is four real ones."""
        return 8 * self.states
