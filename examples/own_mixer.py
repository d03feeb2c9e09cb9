"""A custom mixer as a plug-in: a gated diagonal linear RNN in plain PyTorch.

    matrixstate check examples/own_mixer.yaml --plugin examples/own_mixer.py

Explained in docs/plugins.md.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from matrixstate.errors import require
from matrixstate.layers import About, Mixer, MixerConfig
from matrixstate.layers.mixer import at_least, check_inputs, make_config, zero_padding
from matrixstate.ops import accumulation_dtype


@dataclass(frozen=True)
class DiagonalRNNConfig(MixerConfig):
    """h_t = f_t h_{t-1} + (1 - f_t) v_t per channel, with f_t = σ(W_f x_t + b) and v_t = W_v x_t.

    Read-out: y_t = O (h_t silu(W_g x_t)).
    """

    about: ClassVar[About] = About(
        recurrence="h = f h + (1 - f) v; y = h silu(g)",
        state="channels",
        op=None,  # plain PyTorch; the name of an op of matrixstate.ops where the mixer runs on one
        source="examples/own_mixer.py",
        forms=("step",),
    )

    channels: int = 64
    """Channels of the state."""
    memory: float = 16.0
    """Time constant in steps at initialization: f_t = 1 - 1/memory for an input of zeros."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "channels"), (self.memory > 1, f"memory: expected more than 1, got {self.memory}"))

    def make(self, width: int) -> "DiagonalRNN":
        return DiagonalRNN(width, self)


class DiagonalRNN(Mixer):
    """The mixer of `DiagonalRNNConfig`: [B, T, width] -> [B, T, width]. State: h [B, channels], at least float32."""

    def __init__(self, width: int, config: DiagonalRNNConfig | None = None, **options: Any) -> None:
        super().__init__()
        self.config = config = make_config(DiagonalRNNConfig, width, config, options)
        self.width = width
        self.forget = nn.Linear(width, config.channels)
        self.value = nn.Linear(width, config.channels, bias=False)
        self.gate = nn.Linear(width, config.channels, bias=False)
        self.output = nn.Linear(config.channels, width, bias=False)
        nn.init.constant_(self.forget.bias, math.log(config.memory - 1))  # its sigmoid is 1 - 1/memory

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("DiagonalRNN", x, self.width, mask, reset)
        dtype = accumulation_dtype(x.dtype)
        forget = self.forget(x).to(dtype).sigmoid()
        write = zero_padding((1 - forget) * self.value(x).to(dtype), mask)
        if mask is not None:  # a padded step leaves the state unchanged: it multiplies by 1 and adds 0
            forget = forget.masked_fill(~mask[..., None], 1)
        if reset is not None:  # a document's first step multiplies the state before it by 0
            forget = forget.masked_fill(reset[..., None], 0)
        h, steps = self.init_state(len(x)) if state is None else state, []
        for f, w in zip(forget.unbind(1), write.unbind(1), strict=True):
            h = f * h + w
            steps.append(h)
        y = torch.stack(steps, dim=1) if steps else write  # T = 0: `write` is [B, 0, channels]
        return self.output(y.to(x.dtype) * silu(self.gate(x))), h

    def init_state(self, batch: int) -> Tensor:
        weight = self.output.weight
        return weight.new_zeros(batch, self.config.channels, dtype=accumulation_dtype(weight.dtype))

    def mixing_flops(self, length: int) -> int:
        """Two products and a sum per channel, and the product with the gate."""
        return 4 * self.config.channels


MIXERS = {"diagonal_rnn": DiagonalRNNConfig}
"""What the plug-in adds: name in config files -> config."""
