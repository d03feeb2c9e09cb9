"""Position-wise feed-forward layers, plain and gated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.projection import projection

_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {  # the function, and whether it gates
    "gelu": (nn.functional.gelu, False),
    "relu": (nn.functional.relu, False),
    "swish": (nn.functional.silu, False),
    "glu": (torch.sigmoid, True),
    "bilinear": (lambda x: x, True),
    "reglu": (nn.functional.relu, True),
    "geglu": (nn.functional.gelu, True),
    "swiglu": (nn.functional.silu, True),
}


@dataclass(frozen=True)
class MLPConfig:
    """act(x W1) W2, or for the GLU variants (act(x W1) * (x W3)) W2. Source: Shazeer 2020, "GLU Variants"."""

    hidden: int | None = None
    """Hidden channels. Default: four times the width."""
    activation: Literal["gelu", "relu", "swish", "glu", "bilinear", "reglu", "geglu", "swiglu"] = "gelu"
    """swish is x sigmoid(x); the names that end in lu and have a g are gated, as is bilinear."""

    def __post_init__(self) -> None:
        require((self.hidden is None or self.hidden > 0, f"hidden: expected at least 1, got {self.hidden}"))

    def make(self, width: int) -> "MLP":
        """The layer for inputs of `width` channels."""
        return MLP(self, width)


class MLP(nn.Module):
    """The layer of `MLPConfig`: x [..., width] -> [..., width]."""

    def __init__(self, config: MLPConfig, width: int) -> None:
        super().__init__()
        self.activation, self.gated = _ACTIVATIONS[config.activation]
        hidden = config.hidden or 4 * width
        self.input = projection(width, 2 * hidden if self.gated else hidden)
        self.output = projection(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.input(x)
        if self.gated:
            hidden, value = hidden.chunk(2, dim=-1)
            return self.output(self.activation(hidden) * value)
        return self.output(self.activation(hidden))
