"""sLSTM, the scalar memory of xLSTM: an LSTM with exponential input gates and a normaliser."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    at_least,
    check_inputs,
    fraction,
    make_config,
    require_width,
)
from matrixstate.layers.norm import HeadNorm
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import accumulation_dtype, cell_scan


@dataclass(frozen=True)
class SLSTMConfig(MixerConfig):
    """c_t = σ(f) c_{t-1} + e^i tanh(z), n_t = σ(f) n_{t-1} + e^i, h_t = σ(o) c_t / n_t, y_t = W LayerNorm(h_t).

    Each of z, i, f, o is R h_{t-1} + W x_t + b, with a block of R and a norm per head; i and f read silu(conv(x)), z
    and o x itself. The paper has a gated MLP of factor 4/3 after it, an MLP of the model's here. Source: Beck et al.
    2024, "xLSTM: Extended Long Short-Term Memory".
    """

    about: ClassVar[About] = About(
        recurrence="c = σ(f) c + e^i tanh(z); n = σ(f) n + e^i; h = σ(o) c / n; y = h; z, i, f, o = R h + W x",
        state="4 x width, and conv - 1 inputs",
        op="cell_scan",
        source="Beck et al. 2024, arXiv:2405.04517",
        forms=("step",),
    )

    heads: int = 4
    """Number of heads, a divisor of the width."""
    conv: int = 4
    """Steps of the short convolution of what i and f read. 0: none."""
    depth: float = 0.0
    """Where the layer stands, from 0 for the first to 1 for the last, for the initialisation of f's bias."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "heads"), *at_least(0, self, "conv"), fraction(self, "depth"))

    def make(self, width: int) -> "SLSTM":
        return SLSTM(width, self)


class SLSTMState(NamedTuple):
    """What an sLSTM mixer carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, width]; None without a convolution
    h: Tensor  # [B, H, d] each
    c: Tensor
    n: Tensor
    m: Tensor


class SLSTM(Mixer):
    """The mixer of `SLSTMConfig`.

    At initialisation R is 0, and the bias of f falls from 5 to -7 over the channels of a head, faster in early layers.
    """

    no_weight_decay = ("bias",)

    def __init__(self, width: int, config: SLSTMConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(SLSTMConfig, width, config, options)
        require_width("slstm", width, config.heads, "heads")
        H, d = config.heads, width // config.heads
        self.config, self.width, self.shape = config, width, (H, d)
        self.conv = ShortConv(width, config.conv, bias=True) if config.conv else None
        self.direct, self.gates = projection(width, 2 * width), projection(width, 2 * width)  # z and o; i and f
        self.recurrent = nn.Parameter(torch.zeros(4, H, d, d))  # of z, i, f, o
        place = torch.arange(d) / max(d - 1, 1)
        self.bias = nn.Parameter(torch.zeros(4, H, d))
        self.bias.data[2] = 5 - 12 * place ** (0.3 + 1.3 * config.depth)
        self.norm = HeadNorm(H, d, bias=False)
        self.output = projection(width, width)

    def forward(
        self, x: Tensor, state: SLSTMState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, SLSTMState]:
        x, reset = check_inputs("SLSTM", x, self.width, mask, reset)
        state = self.init_state(x.shape[0]) if state is None else state
        u, conv = (x, None) if self.conv is None else self.conv(x, state.conv, mask, reset)
        z, o = self.direct(x).chunk(2, dim=-1)
        i, f = self.gates(u).chunk(2, dim=-1)
        inputs, weights = {}, {}
        for name, part, bias, weight in zip(("", "i", "f", "o"), (z, i, f, o), self.bias, self.recurrent, strict=True):
            inputs["x" + name], weights["w" + name] = part.unflatten(-1, self.shape) + bias.to(x.dtype), weight
        y, last = cell_scan("slstm", inputs, weights, tuple(state[1:]), mask=mask, reset=reset)
        return self.output(self.norm(y).flatten(2)), SLSTMState(conv, *last)

    def init_state(self, batch: int) -> SLSTMState:
        dtype = accumulation_dtype(self.recurrent.dtype)
        zeros = (self.recurrent.new_zeros(batch, *self.shape, dtype=dtype) for _ in "hcnm")
        return SLSTMState(None if self.conv is None else self.conv.init_state(batch), *zeros)

    def mixing_flops(self, length: int) -> int:
        """The products with the recurrent weights, and the convolution."""
        return 2 * (self.recurrent.numel() + (0 if self.conv is None else self.conv.weight.numel()))
