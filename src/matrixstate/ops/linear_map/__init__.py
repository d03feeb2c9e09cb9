"""Linear maps, by the faster of the libraries that PyTorch has on board."""

from torch import Tensor
from torch.nn.functional import linear as plain

from matrixstate.ops._dispatch import implementation
from matrixstate.ops.linear_map.regime import regime_of


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """y = x weightᵀ + bias, as torch.nn.functional.linear, with a choice of backends for large products.

    Args:
        x: [..., K] floating point.
        weight: [N, K], dtype of `x`.
        bias: [N], dtype of `x`. Default: none.
        backend: "onednn" (float32 on a CPU, from 8 million multiply-adds on; not under autocast, torch.func or
            torch.compile, which have rules for PyTorch's own products), "tf32" (float32 on an NVIDIA GPU, rounding the
            factors to 11 bits; only by its name), "reference", or "auto": the first of the others that can run.

    Returns:
        [..., N], dtype of `x`.

    Raises:
        RuntimeError: sizes or dtypes that do not fit together, in PyTorch's words.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: N·K multiply-adds for each vector of `x`.
    """
    regime = regime_of(x, weight)
    if regime == "small" and backend == "auto":  # as dispatch would choose; without it, for steps of one token
        return plain(x, weight, bias)
    return implementation("linear", backend, x.device.type, x.dtype, regime)(x, weight, bias)
