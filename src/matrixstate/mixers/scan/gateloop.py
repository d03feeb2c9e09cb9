"""GateLoop: a linear recurrence per channel whose decay, complex, depends on the token."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import silu

from matrixstate.errors import require
from matrixstate.layers.mixer import About, Mixer, MixerConfig, check_inputs, make_config, zero_padding
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, linear_scan


@dataclass(frozen=True)
class GateLoopConfig(MixerConfig):
    """h_t = a_t h_{t-1} + k_t v_t, y_t = Re(q_t h_t) silu(g_t), with a_t = σ(|u_t|) e^{i arg u_t}, per channel.

    q, k, v, g and both parts of u are linear in x. The form of the paper with heads of one channel, the practical one,
    whose state is a vector; with `real`, a_t = σ(u_t) of a real u. Source: Katsch 2023, "GateLoop: Fully
    Data-Controlled Linear Recurrence for Sequence Modeling"; the paper's code has only the real form.
    """

    about: ClassVar[About] = About(
        recurrence="h = a h + k v; y = Re(q h) silu(g); a = σ(|u|) e^(i arg u) per channel, u complex",
        state="channels x 2, or channels with real decays",
        op="linear_scan",
        source="Katsch 2023, arXiv:2311.01927",
        forms=("parallel", "chunked", "step"),
    )

    channels: int | None = None
    """Channels of the state. Default: the width."""
    real: bool = False
    """Decays σ(u) without a phase."""

    def __post_init__(self) -> None:
        C = self.channels
        require((C is None or C > 0, f"channels: expected at least 1, got {C}"))

    def make(self, width: int) -> "GateLoop":
        return GateLoop(width, self)


class GateLoop(Mixer):
    """The mixer of `GateLoopConfig`. State [B, C, 2], real and imaginary parts, or [B, C] with real decays.

    All maps start normal with variance 1/width.
    """

    def __init__(self, width: int, config: GateLoopConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(GateLoopConfig, width, config, options)
        self.config, self.width, self.channels = config, width, config.channels or width
        C, std = self.channels, 1 / math.sqrt(width)
        self.inputs = projection(width, 4 * C, std)  # q, k, v, g
        self.decay = projection(width, C if config.real else 2 * C, std)
        self.output = projection(C, width)

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("GateLoop", x, self.width, mask, reset)
        q, k, v, g = self.inputs(x).chunk(4, dim=-1)
        wide = accumulation_dtype(x.dtype)
        u, write = self.decay(x).to(wide), zero_padding((k * v).to(wide), mask)
        if self.config.real:
            decay = torch.sigmoid(u)
            decay = decay if mask is None else torch.where(mask[..., None], decay, 1)
            h, last = linear_scan(write, decay=decay, state=state, reset=reset)
            read = h
        else:
            decay = phased(u.unflatten(-1, (-1, 2)))
            decay = decay if mask is None else torch.where(mask[..., None], decay, 1)
            before = None if state is None else torch.view_as_complex(state)
            h, last = linear_scan(write.to(decay.dtype), decay=decay, state=before, reset=reset)
            read, last = h.real, torch.view_as_real(last)
        return self.output(q * read.to(q.dtype) * silu(g)), last

    def init_state(self, batch: int) -> Tensor:
        weight, sizes = self.output.weight, (self.channels,) if self.config.real else (self.channels, 2)
        return weight.new_zeros(batch, *sizes, dtype=accumulation_dtype(weight.dtype))

    def mixing_flops(self, length: int) -> int:
        """The recurrence: a complex multiply-add is four real ones."""
        return (2 if self.config.real else 8) * self.channels


def phased(u: Tensor) -> Tensor:
    """σ(|u|) u/|u|, complex [...], of u as pairs [..., 2]; 1/2 at u = 0."""
    size = u.square().sum(-1, keepdim=True).clamp(min=torch.finfo(u.dtype).tiny).sqrt()
    return torch.view_as_complex((torch.sigmoid(size) * u / size).contiguous())
