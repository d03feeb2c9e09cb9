"""A bidirectional mixer: one mixer runs along the sequence, another from its end to its start."""

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
    """y = O [forwards(x); reverse(backwards(reverse(x)))], the two mixers with weights of their own.

    It takes whole sequences only and has no state, since the output depends on later steps. It is not in `MIXERS`,
    since a language model would see the tokens that it predicts.
    Source: Schuster & Paliwal 1997, "Bidirectional Recurrent Neural Networks".
    """

    mixer: MixerConfig
    """The mixer of each direction."""

    def make(self, width: int) -> "Bidirectional":
        return Bidirectional(width, self)


class Bidirectional(Mixer):
    """The mixer of `BidirectionalConfig`. It accepts and returns no state but None."""

    def __init__(self, width: int, config: BidirectionalConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(BidirectionalConfig, width, config, options)
        self.config, self.width = config, width
        self.forwards, self.backwards = config.mixer.make(width), config.mixer.make(width)
        self.output = projection(2 * width, width)

    def forward(
        self, x: Tensor, state: State = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """As `Mixer.forward` for whole sequences. Raises ShapeError for a state other than None."""
        x, reset = check_inputs("Bidirectional", x, self.width, mask, reset)
        if state is not None:
            raise ShapeError(
                f"Bidirectional: state must be None, since it takes whole sequences, got {type(state).__name__}"
            )
        y, _ = self.forwards(x, mask=mask, reset=reset)
        # backwards, a document starts where it ends
        ends = None if reset is None else last_steps(reset, mask).flip(1)
        back, _ = self.backwards(x.flip(1), mask=None if mask is None else mask.flip(1), reset=ends)
        return self.output(torch.cat([y, back.flip(1)], dim=-1)), None

    def init_state(self, batch: int) -> None:
        return None

    def mixing_flops(self, length: int) -> int:
        return self.forwards.mixing_flops(length) + self.backwards.mixing_flops(length)


def last_steps(reset: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T] bool, True where a document ends: at real steps that precede a real step with a reset.

    reset [B, T] bool is False at padded steps; mask [B, T] bool or None.
    """
    if mask is None:
        return pad(reset[:, 1:], (0, 1))
    ordinal = mask.long().cumsum(dim=1)  # of real steps, from 1
    resets = torch.zeros(mask.shape[0], mask.shape[1] + 2, dtype=torch.long, device=mask.device)
    resets = resets.scatter_add(1, ordinal, reset.long())  # by ordinal; padded steps have no reset to add
    return resets.gather(1, ordinal + 1).bool() & mask
