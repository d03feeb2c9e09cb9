"""The parameters that an M²RNN layer passes to `m2rnn_step`."""

from typing import NamedTuple

from torch import Tensor


class M2RNNWeights(NamedTuple):
    """The parameters and options of an M²RNN layer between its projections. Tensors are floating point."""

    heads: tuple[int, int, int]  # of q, k and v
    unit_keys: bool  # scale q and k to length 1
    conv: Tensor | None  # [C, taps]: the short convolution over the C channels of q, k and v; None for none
    log_rate: Tensor  # [Hf]
    bias: Tensor  # [Hf]
    w: Tensor  # [Hw, V, V]
    residual: Tensor | None  # [H, V]; None for none
    norm: Tensor  # [H·V]
    eps: float = 1e-5
