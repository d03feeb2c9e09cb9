"""The base of mixers that write keys and values into a fixed number of slots and read them by attention."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from matrixstate.layers.heads import HeadInputs, HeadInputsConfig
from matrixstate.layers.mixer import Mixer, StateMatrices, at_least, check_inputs
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, outer_scan


@dataclass(frozen=True)
class SlotConfig(HeadInputsConfig):
    """The options that these mixers have in common."""

    slots: int = 32
    """M, slots of a head: pairs of a key and a value in its state."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), *at_least(1, self, "slots")]


class SlotState(NamedTuple):
    """What a `SlotMixer` carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, channels of q, k and v]; None without a convolution
    keys: Tensor | None  # [B, H, K, M]; None before the first step
    values: Tensor | None  # [B, H, M, V]; None before the first step
    log_sum: Tensor | None  # [B, H, M], what `write` carries; None where it carries nothing


class SlotMixer(Mixer):
    """K_m <- a_m K_m + w_m k, V_m <- a_m V_m + w_m v: slot m of a head holds means of keys and of values.

    The read-out is V softmax(K q): two calls of `outer_scan` with a softmax between. Subclasses implement `write` and
    `read`.
    """

    def __init__(self, width: int, config: SlotConfig) -> None:
        super().__init__()
        (H, K, V), M = config.shape, config.slots
        self.width, self.shape = width, (H, K, V, M)
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), config.conv, std=config.input_std)
        self.slots = projection(width, H * M, config.input_std)
        self.output = projection(H * V, width)

    @abstractmethod
    def features(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, with their scale, keys [B, T, H, K] and values [B, T, H, V] from what was projected."""

    @abstractmethod
    def write(
        self, logits: Tensor, log_sum: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """log a_t and w_t [B, T, H, M], at least float32, 0 at padded steps, and what is carried of log_sum.

        logits: [B, T, H, M], at least float32.
        """

    @abstractmethod
    def read(self, y: Tensor, x: Tensor) -> Tensor:
        """What the output projection takes [B, T, H·V], from what was read [B, T, H, V] and the input."""

    def forward(
        self, x: Tensor, state: SlotState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, SlotState]:
        x, reset = check_inputs(type(self).__name__, x, self.width, mask, reset)
        state = SlotState(None, None, None, self._log_sum(x.shape[0])) if state is None else state
        (q, k, v), conv = self.inputs(x, state.conv, mask, reset)
        q, k, v = self.features(q, k, v)
        logits = self.slots(x).to(accumulation_dtype(x.dtype)).unflatten(-1, (self.shape[0], -1))
        decay, w, log_sum = self.write(logits, state.log_sum, mask, reset)
        w = w.to(q.dtype)
        scores, keys = outer_scan(q, k, w, log_decay_v=decay, state=state.keys, reset=reset)
        p = torch.softmax(scores.to(decay.dtype), dim=-1).to(q.dtype)
        y, values = outer_scan(p, w, v, log_decay=decay, state=state.values, reset=reset)
        return self.output(self.read(y, x)), SlotState(conv, keys, values, log_sum)

    def _log_sum(self, batch: int) -> Tensor | None:
        """The state of `write` before the first step."""
        return None

    def init_state(self, batch: int) -> SlotState:
        weight, (H, K, V, M) = self.output.weight, self.shape
        zeros = weight.new_zeros(batch, H, M, K + V, dtype=accumulation_dtype(weight.dtype))
        keys, values = zeros[..., :K].mT.contiguous(), zeros[..., K:].contiguous()
        return SlotState(self.inputs.init_state(batch), keys, values, self._log_sum(batch))

    def state_matrices(self, state: SlotState) -> StateMatrices | None:
        return None if state.values is None else StateMatrices(state.values)

    def mixing_flops(self, length: int) -> int:
        """Both recurrences with their read-outs, and the convolution."""
        H, K, V, M = self.shape
        return 6 * H * M * (K + V) + self.inputs.conv_flops
