"""What a case of an op is, and how its inputs are drawn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matrixstate.layers import map_state, state_leaves

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """An op with a way to draw its inputs and to call it.

    `sequence` draws the inputs that have a time axis 1, `fixed` those that have none, `state` an initial state whose
    tensors may be differentiated. All sizes differ, so that a swapped axis cannot pass. `dtype` is the widest one that
    the backend takes.
    """

    name: str
    op: str
    sequence: Callable[[int, torch.dtype], Inputs]
    call: Callable[..., tuple[Any, ...]]  # call(sequence, fixed, state, reset=, backend=) -> (outputs..., state)
    state: Callable[[torch.dtype], Any]
    fixed: Callable[[torch.dtype], Inputs] = lambda dtype: {}
    backend: str = "reference"
    dtype: torch.dtype = torch.float64
    resets: bool = True  # whether these sizes allow a reset
    caller: str = ""  # the function that errors name, where it is not the op itself
    is_complex: bool = False  # whether the op gets pairs of numbers of the drawn dtype as complex ones

    def __str__(self) -> str:
        return self.name

    def named(self, dtype: torch.dtype) -> torch.dtype:
        """The dtype that errors name for inputs drawn in `dtype`."""
        return dtype.to_complex() if self.is_complex else dtype

    def run(self, sequence: Inputs, fixed: Inputs, state: Any, reset: Tensor | None = None) -> list[Tensor]:
        """All outputs and the tensors of the last state."""
        *outputs, last = self.call(sequence, fixed, state, reset=reset, backend=self.backend)
        return [*outputs, *state_leaves(last)]


B = 2


def normal(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).to(dtype)


def near_identity(*shape: int, dtype: torch.dtype, scale: float = 0.3) -> Tensor:
    return (torch.eye(shape[-1]) + scale * torch.randn(*shape, dtype=torch.float64)).to(dtype)


def kept(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64).to(dtype)


def log_decays(*shape: int, dtype: torch.dtype) -> Tensor:
    return -2 * torch.rand(*shape, dtype=torch.float64).to(dtype)


def accumulation(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def differentiable(*groups: Any) -> list[Tensor]:
    """The floating-point tensors of states and input dictionaries, made to require gradients."""
    leaves = [leaf for g in groups for leaf in (g.values() if isinstance(g, dict) else state_leaves(g))]
    return [leaf.requires_grad_() for leaf in leaves if leaf.is_floating_point()]


def copy(group: Any) -> Any:
    """A fresh copy of a state or of input dictionaries."""
    if isinstance(group, dict):
        return {name: value.detach().clone() for name, value in group.items()}
    return map_state(lambda leaf: leaf.detach().clone(), group)


def floats(tensors: list[Tensor]) -> list[Tensor]:
    """Those that a gradient can flow into."""
    return [t for t in tensors if t.is_floating_point()]
