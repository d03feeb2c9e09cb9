"""What an MRU layer hands to `mru_step`."""

from typing import Literal, NamedTuple

from torch import Tensor

from matrixstate.ops.matrix import ScaledState

State = Tensor | ScaledState


class MRUWeights(NamedTuple):
    """What an MRU layer has between its projections. Tensors are floating point; None leaves a part out."""

    builder: str  # as `mru_scan`, like the next three
    rescale: bool
    readout: Literal["state", "normalised", "bounded"]
    bound: float
    down: Tensor  # [H, D, C]
    conv: Tensor | None  # [H·D², taps]: the short convolution of what is written
    log_rate: Tensor | None  # [H], of the forget gate, as the next
    bias: Tensor | None  # [H]
    skip: Tensor | None  # [H·D²], where C = D
    norm: Tensor | None  # [H·D·C]
    eps: float = 1e-5
    balanced: bool = False  # write sqrt(1 - f²) v, which needs conv and log_rate
