"""The parameters that an MRU layer passes to `mru_step`."""

from typing import Literal, NamedTuple

from torch import Tensor

from matrixstate.ops.matrix import ScaledState

State = Tensor | ScaledState


class MRUWeights(NamedTuple):
    """The parameters and options of an MRU layer between its projections.

    Tensors are floating point; None for a part that the layer does not have.
    """

    builder: str  # as in `mru_scan`, like the next three
    rescale: bool
    readout: Literal["state", "normalised", "bounded"]
    bound: float
    down: Tensor  # [H, D, C]
    conv: Tensor | None  # [H·D², taps]: the short convolution of the value
    log_rate: Tensor | None  # [H], of the forget gate, like `bias`
    bias: Tensor | None  # [H]
    skip: Tensor | None  # [H·D²], requires C = D
    norm: Tensor | None  # [H·D·C]
    eps: float = 1e-5
    balanced: bool = False  # write sqrt(1 - f²) v; requires conv and log_rate
