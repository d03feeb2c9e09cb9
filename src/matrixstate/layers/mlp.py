"""MLPs: two linear maps with an activation between them, or a gated one."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.projection import projection

_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {  # function, whether the MLP is gated
    "gelu": (nn.functional.gelu, False),
    "relu": (nn.functional.relu, False),
    "swish": (nn.functional.silu, False),
    "glu": (torch.sigmoid, True),
    "bilinear": (lambda x: x, True),
    "reglu": (nn.functional.relu, True),
    "geglu": (nn.functional.gelu, True),
    "geglu_tanh": (partial(nn.functional.gelu, approximate="tanh"), True),
    "swiglu": (nn.functional.silu, True),
}


@dataclass(frozen=True)
class MLPConfig:
    """act(x W1) W2, or for the GLU variants (act(x W1) * (x W3)) W2. Source: Shazeer 2020, "GLU Variants"."""

    hidden: int | None = None
    """Hidden channels. Default: four times the width."""
    activation: Literal["gelu", "relu", "swish", "glu", "bilinear", "reglu", "geglu", "geglu_tanh", "swiglu"] = "gelu"
    """glu, bilinear, reglu, geglu and swiglu are gated, with sigmoid, identity, relu, gelu and silu; swish is silu.
    geglu_tanh approximates gelu by a tanh, as Gemma does."""
    bias: bool = False
    """Biases of the linear maps, zero at initialisation."""

    def __post_init__(self) -> None:
        require((self.hidden is None or self.hidden > 0, f"hidden: expected at least 1, got {self.hidden}"))

    def make(self, width: int) -> "FeedForward":
        """An MLP for inputs of `width` channels."""
        return MLP(self, width)

    def sizes(self, width: int) -> tuple[int, int]:
        """Channels before the activation, twice as many where it is gated, and after it."""
        hidden = self.hidden or 4 * width
        return (2 * hidden if _ACTIVATIONS[self.activation][1] else hidden), hidden

    def activate(self, hidden: Tensor) -> Tensor:
        """hidden [..., channels before] -> [..., channels after]; the second half of gated channels is the value."""
        act, gated = _ACTIVATIONS[self.activation]
        if not gated:
            return act(hidden)
        hidden, value = hidden.chunk(2, dim=-1)
        return act(hidden) * value


class FeedForward(nn.Module, ABC):
    """Base class of MLPs, which act on every step by itself: x [..., width] -> [..., width]."""

    @abstractmethod
    def last_weights(self) -> list[Tensor]:
        """The weights of the last linear maps, which the model scales with its depth."""


class MLP(FeedForward):
    """The MLP of `MLPConfig`."""

    def __init__(self, config: MLPConfig, width: int) -> None:
        super().__init__()
        before, after = config.sizes(width)
        self.activate = config.activate
        self.input = projection(width, before, bias=config.bias)
        self.output = projection(after, width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.activate(self.input(x)))

    def last_weights(self) -> list[Tensor]:
        return [self.output.weight]
