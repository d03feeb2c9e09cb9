"""Any mixer in both directions: one reads the sequence forwards, one backwards."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from matrixstate.errors import ShapeError
from matrixstate.layers.mixer import Mixer, MixerConfig, State, check_inputs, make_config
from matrixstate.layers.projection import projection


@dataclass(frozen=True)
class BidirectionalConfig(MixerConfig):
    """y = O [forwards(x); reverse(backwards(reverse(x)))], each mixer with weights of its own.

    For whole sequences only: what comes after a step cannot be carried from before it, so there is no state, and a
    sequence cannot be split. It is not among `MIXERS`: a language model would see the tokens it is to predict.
    Source: Schuster & Paliwal 1997, "Bidirectional Recurrent Neural Networks".
    """

    mixer: MixerConfig
    """What runs in either direction."""

    def make(self, width: int) -> "Bidirectional":
        return Bidirectional(width, self)


class Bidirectional(Mixer):
    """The mixer of `BidirectionalConfig`. Its state is None, and so must be the state it is given."""

    def __init__(self, width: int, config: BidirectionalConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(BidirectionalConfig, width, config, options)
        self.config, self.width = config, width
        self.forwards, self.backwards = config.mixer.make(width), config.mixer.make(width)
        self.output = projection(2 * width, width)

    def forward(
        self, x: Tensor, state: State = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """As of a mixer, but with the whole sequence at once. Raises ShapeError for a state other than None."""
        x, reset = check_inputs("Bidirectional", x, self.width, mask, reset)
        if state is not None:
            raise ShapeError(
                f"Bidirectional: state must be None, for it reads whole sequences, got {type(state).__name__}"
            )
        y, _ = self.forwards(x, mask=mask, reset=reset)
        ends = None if reset is None else last_steps(reset, mask).flip(1)
        back, _ = self.backwards(x.flip(1), mask=None if mask is None else mask.flip(1), reset=ends)
        return self.output(torch.cat([y, back.flip(1)], dim=-1)), None

    def init_state(self, batch: int) -> None:
        return None

    def mixing_flops(self, length: int) -> int:
        return self.forwards.mixing_flops(length) + self.backwards.mixing_flops(length)


def last_steps(reset: Tensor, mask: Tensor | None) -> Tensor:
    """Where documents end [B, T] bool: at real steps whose next real step is a reset. Resets are at real steps only."""
    if mask is None:
        return pad(reset[:, 1:], (0, 1))
    real = mask.long().cumsum(dim=1)  # counted from 1
    resets = torch.zeros(mask.shape[0], mask.shape[1] + 2, dtype=torch.long, device=mask.device)
    resets = resets.scatter_add(1, real, reset.long())  # padded steps add nothing
    return resets.gather(1, real + 1).bool() & mask
