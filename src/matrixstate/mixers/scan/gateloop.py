"""GateLoop: a linear recurrence per channel whose decay, complex, depends on the token."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, silu

from matrixstate.errors import require
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    StateMatrices,
    at_least,
    check_inputs,
    make_config,
    require_width,
    zero_padding,
)
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, linear_scan, outer_scan, phased_outer_scan


@dataclass(frozen=True)
class GateLoopConfig(MixerConfig):
    """S_t = diag(a_t) S_{t-1} + k_t v_tᵀ, y_t = Re(q_tᵀ S_t) silu(g_t), with a_t = σ(|u_t|) e^{i arg u_t} per channel.

    q, k, v, g and both parts of u are linear in x, and divided into heads. With heads of one channel, the practical
    form of the paper, the state is a vector. With `real`, a_t = σ(u_t) of a real u. Source: Katsch 2023, "GateLoop:
    Fully Data-Controlled Linear Recurrence for Sequence Modeling"; the paper's code has only the real form.
    """

    about: ClassVar[About] = About(
        recurrence="S = diag(a) S + k vᵀ; y = Re(qᵀ S) silu(g); a = σ(|u|) e^(i arg u) per channel, u complex",
        state="channels x 2 x head_size, or channels x head_size with real decays",
        op="linear_scan",
        source="Katsch 2023, arXiv:2311.01927",
        forms=("parallel", "chunked", "step"),
    )

    channels: int | None = None
    """Channels of q, k and v. Default: the width."""
    head_size: int = 1
    """Channels of a head, a divisor of channels. Above 1 a head's state is a matrix, and the op `outer_scan`."""
    real: bool = False
    """Decays σ(u) without a phase."""

    def __post_init__(self) -> None:
        C = self.channels
        require((C is None or C > 0, f"channels: expected at least 1, got {C}"), *at_least(1, self, "head_size"))

    def make(self, width: int) -> "GateLoop":
        return GateLoop(width, self)


class GateLoop(Mixer):
    """The mixer of `GateLoopConfig`. State [B, C, 2], real and imaginary parts, or [B, C] with real decays.

    With heads of n channels the state is [B, C/n, 2n, n], real and then imaginary rows, or [B, C/n, n, n]. All maps
    start normal with variance 1/width.
    """

    def __init__(self, width: int, config: GateLoopConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(GateLoopConfig, width, config, options)
        self.config, self.width, self.channels = config, width, config.channels or width
        require_width("gateloop", self.channels, config.head_size, "head_size (or set channels)")
        C, std = self.channels, 1 / math.sqrt(width)
        self.inputs = projection(width, 4 * C, std)  # q, k, v, g
        self.decay = projection(width, C if config.real else 2 * C, std)
        self.output = projection(C, width)

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("GateLoop", x, self.width, mask, reset)
        q, k, v, g = self.inputs(x).chunk(4, dim=-1)
        u = self.decay(x).to(accumulation_dtype(x.dtype))
        u = u if self.config.real else u.unflatten(-1, (-1, 2))
        recur = self._vectors if self.config.head_size == 1 else self._matrices
        y, last = recur((q, k, v, u), state, mask, reset)
        return self.output(y * silu(g)), last

    def _vectors(
        self, inputs: tuple[Tensor, ...], state: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The read-out [B, T, C] and the last state, of heads of one channel."""
        q, k, v, u = inputs
        write = zero_padding((k * v).to(u.dtype), mask)
        decay = torch.sigmoid(u) if self.config.real else phased(u)
        decay = decay if mask is None else torch.where(mask[..., None], decay, 1)
        if self.config.real:
            h, last = linear_scan(write, decay=decay, state=state, reset=reset)
            return q * h.to(q.dtype), last
        before = None if state is None else torch.view_as_complex(state)
        h, last = linear_scan(write.to(decay.dtype), decay=decay, state=before, reset=reset)
        return q * h.real.to(q.dtype), torch.view_as_real(last)

    def _matrices(
        self, inputs: tuple[Tensor, ...], state: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The read-out [B, T, C] and the last state, of wider heads."""
        q, k, v, u = (a.unflatten(2, (-1, self.config.head_size)) for a in inputs)
        k = zero_padding(k, mask)
        if self.config.real:
            y, last = outer_scan(q, k, v, log_decay=zero_padding(logsigmoid(u), mask), state=state, reset=reset)
        else:
            decay, phase = (zero_padding(a, mask) for a in polar(u))
            y, last = phased_outer_scan(q, k, v, phase, log_decay=decay, state=state, reset=reset)
        return y.flatten(2), last

    def init_state(self, batch: int) -> Tensor:
        C, n, parts = self.channels, self.config.head_size, 1 if self.config.real else 2
        sizes = ((C,) if parts == 1 else (C, 2)) if n == 1 else (C // n, parts * n, n)
        weight = self.output.weight
        return weight.new_zeros(batch, *sizes, dtype=accumulation_dtype(weight.dtype))

    def state_matrices(self, state: Tensor) -> StateMatrices | None:
        return None if self.config.head_size == 1 else StateMatrices(state)

    def mixing_flops(self, length: int) -> int:
        """The recurrence, a complex multiply-add being four real ones, and the read-out of matrices."""
        n = self.config.head_size
        if n == 1:
            return (2 if self.config.real else 8) * self.channels
        return (6 if self.config.real else 12) * self.channels * n


def phased(u: Tensor) -> Tensor:
    """σ(|u|) u/|u|, complex [...], of u as pairs [..., 2]; 1/2 at u = 0."""
    size = u.square().sum(-1, keepdim=True).clamp(min=torch.finfo(u.dtype).tiny).sqrt()
    return torch.view_as_complex((torch.sigmoid(size) * u / size).contiguous())


def polar(u: Tensor) -> tuple[Tensor, Tensor]:
    """log σ(|u|) and arg u [...], of u as pairs [..., 2]; arg u is 0, without a gradient, at u = 0."""
    square = u.square().sum(-1)
    re = torch.where(square == 0, 1, u[..., 0])  # the derivative of the angle is infinite there
    return logsigmoid(square.clamp(min=torch.finfo(u.dtype).tiny).sqrt()), torch.atan2(u[..., 1], re)
