"""The base of the mixers whose cell is one of `CELLS`."""

from collections.abc import Callable

from torch import Tensor

from matrixstate.layers.mixer import State
from matrixstate.mixers.cells.cell_mixer import CellConfig, CellMixer
from matrixstate.ops import Cell, cell_scan


def only(h: Tensor) -> Tensor:
    """The state of a mixer whose cell has one tensor."""
    return h


class NamedCellMixer(CellMixer):
    """A cell that `cell_scan` knows, between two projections. Subclasses set `state_of`.

    Inputs and recurrent weights have the order of the cell's; a cell without matrices has vectors as its recurrent
    weights.
    """

    state_of: Callable[..., State]  # from the cell's tensors to the mixer's state

    def __init__(self, width: int, config: CellConfig, cell: Cell, more_inputs: int = 0) -> None:
        self.cell, self.inputs_per_cell = cell, len(cell.inputs) + more_inputs
        super().__init__(width, config)

    @property
    def matrices(self) -> int:
        return len(self.cell.matrices)

    def all_weights(self, recurrent: list[Tensor]) -> list[Tensor]:
        """The cell's matrices, then its vectors; those with both add to the recurrent weights here."""
        return recurrent

    def scan(
        self, inputs: list[Tensor], weights: list[Tensor], state: State, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        x = dict(zip(self.cell.inputs, inputs, strict=True))
        w = dict(zip(self.cell.matrices + self.cell.vectors, self.all_weights(weights), strict=True))
        first = (state,) if isinstance(state, Tensor) else state
        y, last = cell_scan(self.cell, x, w, first, grad_clip=self.config.grad_clip, mask=mask, reset=reset)
        return y, self.state_of(*last)

    def _zeros(self, batch: int) -> State:
        return self.state_of(*(super(NamedCellMixer, self)._zeros(batch) for _ in self.cell.state))
