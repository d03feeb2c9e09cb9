"""The base of mixers in plain PyTorch that run a function of one step along the sequence."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import Mixer, check_inputs
from matrixstate.ops._checks import full_precision


class StepMixer(Mixer):
    """h_t, the first part of the state, is a function `step` of `inputs(x_t)` and the state before; y = output(h).

    States are NamedTuples of tensors, h first, that start as zeros; `init_state` makes them. Subclasses set the
    attributes below and implement `step`. Steps are computed in at least float32, under autocast too.
    """

    width: int  # channels of the mixer's input and output
    channels: int  # of h
    inputs: Linear

    @abstractmethod
    def step(self, z: Tensor, state: Any) -> Any:
        """The state after a step with inputs(x_t) = z [B, ...], in the dtype of the state."""

    def forward(
        self, x: Tensor, state: Any = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        x, reset = check_inputs(type(self).__name__, x, self.width, mask, reset)
        state = self.init_state(x.shape[0]) if state is None else state
        inputs, rows = self.inputs(x).to(state[0].dtype), []
        with full_precision(x):
            for t, z in enumerate(inputs.unbind(dim=1)):
                if reset is not None:
                    state = _chosen(reset[:, t], type(state)(*(torch.zeros_like(part) for part in state)), state)
                after = self.step(z, state)
                state = after if mask is None else _chosen(mask[:, t], after, state)
                rows.append(state[0])
        h = torch.stack(rows, dim=1) if rows else inputs.new_zeros(*x.shape[:2], self.channels)
        return self.output(h.to(x.dtype)), type(state)(*(part.contiguous() for part in state))


def _chosen(rows: Tensor, one: Any, other: Any) -> Any:
    """The state of `one` where `rows` [B] is True, else of `other`."""
    return type(one)(*(torch.where(rows.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(one, other, strict=True)))
