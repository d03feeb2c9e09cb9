"""What mixers share whose state is one row vector per head, multiplied by a matrix made of each token."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from matrixstate.layers.mixer import Mixer, StateMatrices, check_inputs, zero_padding
from matrixstate.ops import accumulation_dtype, matrix_scan


class RowMixer(Mixer):
    """h_t = h_{t-1} A_t + v_t, y_t = W_o h_t, a row h of order d per head. State [B, H, 1, d]; of zeros, it is empty.

    A mixer says what `matrices` and `writes` of tokens are.
    """

    config: Any  # with `heads` and `order`
    width: int

    @abstractmethod
    def matrices(self, x: Tensor) -> Tensor:
        """A of tokens x [B, T, D]: [B, T, H, d, d]."""

    @abstractmethod
    def writes(self, x: Tensor, A: Tensor, begins: Tensor) -> Tensor:
        """v of tokens x [B, T, D]: [B, T, H, 1, d]; begins [B, T] is true at the first token of a document."""

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs(type(self).__name__, x, self.width, mask, reset)
        state = self.init_state(x.shape[0]) if state is None else state
        A = self.matrices(x)
        v = zero_padding(self.writes(x, A, _begins(x, state, mask, reset)), mask)
        if mask is not None:
            A = torch.where(mask[..., None, None, None], A, torch.eye(A.shape[-1], device=A.device, dtype=A.dtype))
        wide = accumulation_dtype(x.dtype)
        h, state = matrix_scan(A.to(wide), v.to(wide), state, reset=reset)
        return self.output(h.flatten(2).to(x.dtype)), state

    def init_state(self, batch: int) -> Tensor:
        weight, config = self.output.weight, self.config
        return weight.new_zeros(batch, config.heads, 1, config.order, dtype=accumulation_dtype(weight.dtype))

    def state_matrices(self, state: Tensor) -> StateMatrices | None:
        return StateMatrices(state)

    def mixing_flops(self, length: int) -> int:
        """The recurrence."""
        return 2 * self.config.heads * self.config.order**2


def _begins(x: Tensor, state: Tensor, mask: Tensor | None, reset: Tensor | None) -> Tensor:
    """[B, T], whether a token is the first after a reset, or the first real one of a row with an empty state."""
    real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
    first = real & (real.cumsum(1) == 1) & (state == 0).all(dim=-1).flatten(1).all(dim=-1)[:, None]
    return first if reset is None else first | reset
