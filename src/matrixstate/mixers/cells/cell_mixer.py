"""The base of the mixers with a vector state: RNN, GRU and LSTM."""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from matrixstate.errors import require
from matrixstate.layers.heads import HeadInputs
from matrixstate.layers.low_rank import LowRankMatrices
from matrixstate.layers.mixer import Mixer, MixerConfig, State, at_least, check_inputs, require_width
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype


@dataclass(frozen=True)
class CellConfig(MixerConfig):
    """The options that RNN, GRU and LSTM have in common."""

    heads: int = 1
    """Heads H, each with recurrent weights of its own; 1 gives the dense recurrence of the textbooks."""
    head_size: int | None = None
    """d, channels of a head. Default: width / heads."""
    conv: int = 0
    """Steps of a short convolution (followed by silu) of the cell's inputs. 0: none."""
    gate: bool = False
    """Multiply the read-out by silu of a projection of the input and apply RMSNorm, as the M²RNN paper's RNNs do."""
    grad_clip: float | None = None
    """Clip the gradient with respect to each state to this absolute value, elementwise. Default: no clipping."""

    def __post_init__(self) -> None:
        require(*self.checks())

    def checks(self) -> list[tuple[bool, str]]:
        """What `require` is told of the options; subclasses add theirs, so that all mistakes come at once."""
        return [
            *at_least(1, self, "heads"),
            *at_least(0, self, "conv"),
            (self.head_size is None or self.head_size > 0, f"head_size: expected at least 1, got {self.head_size}"),
            (
                self.grad_clip is None or self.grad_clip > 0,
                f"grad_clip: expected a positive number, got {self.grad_clip}",
            ),
        ]


@dataclass(frozen=True)
class MatrixCellConfig(CellConfig):
    """The options of cells with a matrix of recurrent weights for each input."""

    rank: int | None = None
    """Recurrent weights are A B, with A of `rank` columns, for few parameters beside a large state. Default: whole
    matrices. Source: Miceli Barone 2016, "Low-rank passthrough neural networks"."""
    diagonal: bool = True
    """Where there is a `rank`, add a diagonal matrix: A B + diag(u)."""

    def checks(self) -> list[tuple[bool, str]]:
        fits = self.rank is None or self.rank > 0
        return [*super().checks(), (fits, f"rank: expected at least 1, got {self.rank}")]


class CellState(NamedTuple):
    """What a `CellMixer` carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, channels of the inputs]; None without a convolution
    scan: State  # of the cell; None before the first step


class CellMixer(Mixer):
    """A recurrent cell between two projections. Subclasses set `inputs_per_cell` and implement `scan`.

    The weights of the input projection and the recurrent weights start uniform in ±1/√d, as those of `torch.nn.RNN`,
    those of a low rank as `LowRankMatrices` has them; biases start at zero.
    """

    inputs_per_cell: int  # projections of the input: candidate and gates
    recurrent: nn.Parameter | LowRankMatrices

    no_weight_decay = ("bias", "recurrent")

    def __init__(self, width: int, config: CellConfig) -> None:
        super().__init__()
        name, H, n = type(self).__name__, config.heads, self.inputs_per_cell
        if config.head_size is None:
            require_width(name.lower(), width, H, "heads")
        d = config.head_size or width // H
        self.name, self.config, self.width, self.size = name, config, width, d
        limit = 1 / math.sqrt(d)
        self.inputs = HeadInputs(width, ((H, d),) * n, config.conv)
        nn.init.uniform_(self.inputs.projection.weight, -limit, limit)
        self.bias = nn.Parameter(torch.zeros(n, H, d))
        if isinstance(config, MatrixCellConfig) and config.rank is not None:
            self.recurrent = LowRankMatrices((self.matrices, H), d, config.rank, config.diagonal)
        else:
            self.recurrent = nn.Parameter(torch.empty(self.matrices, H, d, d).uniform_(-limit, limit))
        self.gate = projection(width, H * d) if config.gate else None
        self.norm = RMSNorm(H * d) if config.gate else None
        self.output = projection(H * d, width)

    @property
    def matrices(self) -> int:
        """How many recurrent matrices the cell has: one for each input."""
        return self.inputs_per_cell

    @abstractmethod
    def scan(
        self, inputs: list[Tensor], weights: list[Tensor], state: State, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, State]:
        """Run the cell along the sequence.

        Args:
            inputs: `inputs_per_cell` tensors [B, T, H, d], projections of x plus biases.
            weights: `matrices` recurrent weights [H, d, d].
            state: what the last call returned. None: zeros.
            mask: [B, T] bool, True at real steps.
            reset: [B, T] bool, True where a document starts.

        Returns:
            h_t of every step [B, T, H, d], and the state.
        """

    def forward(
        self, x: Tensor, state: CellState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, CellState]:
        x, reset = check_inputs(self.name, x, self.width, mask, reset)
        state = CellState(None, None) if state is None else state
        parts, conv = self.inputs(x, state.conv, mask, reset)
        inputs = [part + bias for part, bias in zip(parts, self.bias.to(parts[0].dtype), strict=True)]
        y, scan = self.scan(inputs, list(self._recurrent()), state.scan, mask, reset)
        y = y.flatten(2)
        if self.gate is not None and self.norm is not None:
            y = self.norm(y * silu(self.gate(x)))
        return self.output(y), CellState(conv, scan)

    def _recurrent(self) -> Tensor:
        """The recurrent weights, which a low rank makes of fewer numbers."""
        return self.recurrent() if isinstance(self.recurrent, LowRankMatrices) else self.recurrent

    def init_state(self, batch: int) -> CellState:
        return CellState(self.inputs.init_state(batch), self._zeros(batch))

    def _zeros(self, batch: int) -> State:
        dtype = accumulation_dtype(self.bias.dtype)
        return self.bias.new_zeros(batch, self.config.heads, self.size, dtype=dtype)

    def mixing_flops(self, length: int) -> int:
        """The products with the recurrent weights, and the convolution."""
        return 2 * self._recurrent().numel() + self.inputs.conv_flops
