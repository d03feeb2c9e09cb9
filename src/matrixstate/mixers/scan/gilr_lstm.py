"""GILR-LSTM: an LSTM whose gates see, in place of its last output, a surrogate from a linear recurrence."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from matrixstate.errors import require
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, Mixer, MixerConfig, check_inputs, make_config, zero_padding
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, linear_scan


@dataclass(frozen=True)
class GILRLSTMConfig(MixerConfig):
    """c_t = f_t c_{t-1} + i_t tanh(z_t), y_t = o_t tanh(c_t), where f, i, o = σ(.), with f, i, o, z of x_t and s_{t-1}.

    They are linear maps of x_t and of the surrogate s of a GILR, s_t = g_t s_{t-1} + (1 - g_t) tanh(V x_t + b_v) with
    g_t = σ(U x_t + b_u), so that both recurrences are linear. Source: Martin & Cundy 2018, "Parallelizing Linear
    Recurrent Neural Nets Over Sequence Length".
    """

    about: ClassVar[About] = About(
        recurrence="s = g s + (1 - g) tanh(W x + b); c = f c + i tanh(z); y = o tanh(c); gates of x and the s before",
        state="2 x channels",
        op="linear_scan",
        source="Martin & Cundy 2018, arXiv:1709.04057",
        forms=("parallel", "chunked", "step"),
    )

    channels: int | None = None
    """C, channels of the surrogate and of the cell. Default: the width."""
    output_tanh: bool = True
    """y = o tanh(c), as in an LSTM, or y = o c. The paper leaves open which."""

    def __post_init__(self) -> None:
        C = self.channels
        require((C is None or C > 0, f"channels: expected at least 1, got {C}"))

    def make(self, width: int) -> "GILRLSTM":
        return GILRLSTM(width, self)


class GILRLSTMState(NamedTuple):
    """What a GILR-LSTM mixer carries from one call to the next."""

    surrogate: Tensor  # [B, C], s
    scan: Tensor  # [B, C], c


class GILRLSTM(Mixer):
    """The mixer of `GILRLSTMConfig`. All maps but the last start as `torch.nn.Linear` does."""

    def __init__(self, width: int, config: GILRLSTMConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(GILRLSTMConfig, width, config, options)
        self.config, self.width, self.channels = config, width, config.channels or width
        C = self.channels
        self.surrogate = Linear(width, 2 * C)  # g and what it lets in
        self.inputs = Linear(width, 4 * C)  # f, i, o and z, from x
        self.recurrent = Linear(C, 4 * C, bias=False)  # and from s
        self.output = projection(C, width)

    def forward(
        self, x: Tensor, state: GILRLSTMState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, GILRLSTMState]:
        x, reset = check_inputs("GILRLSTM", x, self.width, mask, reset)
        state = self.init_state(x.shape[0]) if state is None else state
        g, v = self._gates(self.surrogate(x), 2)
        write, decay = zero_padding(torch.sigmoid(-g) * torch.tanh(v), mask), zero_padding(logsigmoid(g), mask)
        s, surrogate = linear_scan(write, log_decay=decay, state=state.surrogate, reset=reset)
        before = torch.cat([state.surrogate[:, None], s], dim=1)[:, :-1].to(x.dtype)
        before = before if reset is None else before.masked_fill(reset[..., None], 0)
        f, i, o, z = self._gates(self.inputs(x) + self.recurrent(before), 4)
        write, decay = zero_padding(torch.sigmoid(i) * torch.tanh(z), mask), zero_padding(logsigmoid(f), mask)
        c, cell = linear_scan(write, log_decay=decay, state=state.scan, reset=reset)
        y = torch.sigmoid(o) * (torch.tanh(c) if self.config.output_tanh else c)
        return self.output(y.to(x.dtype)), GILRLSTMState(surrogate, cell)

    def _gates(self, z: Tensor, parts: int) -> tuple[Tensor, ...]:
        return z.to(accumulation_dtype(z.dtype)).chunk(parts, dim=-1)

    def init_state(self, batch: int) -> GILRLSTMState:
        weight = self.output.weight
        new = lambda: weight.new_zeros(batch, self.channels, dtype=accumulation_dtype(weight.dtype))  # noqa: E731
        return GILRLSTMState(new(), new())

    def mixing_flops(self, length: int) -> int:
        """Both recurrences."""
        return 4 * self.channels
