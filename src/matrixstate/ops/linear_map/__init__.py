"""Linear maps, by the faster of the libraries that PyTorch has on board."""

import torch
from torch import Tensor

from matrixstate.ops._dispatch import choose
from matrixstate.ops.linear_map import kernel_onednn, reference


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """y = x weightᵀ + bias, as torch.nn.functional.linear, which sees to everything but large products.

    Args:
        x: [..., K] floating point.
        weight: [N, K], dtype of `x`.
        bias: [N], dtype of `x`. Default: none.
        backend: "onednn" (float32 on a CPU, from 8 million multiply-adds on; neither under autocast, which has a dtype
            of its own, nor where torch.compile traces, whose compiler fuses what it knows), "reference", or "auto": the
            first that can run.

    Returns:
        [..., N], dtype of `x`.

    Raises:
        RuntimeError: sizes or dtypes that do not fit together, in PyTorch's words.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: N·K multiply-adds for each vector of `x`.
    """
    if torch.compiler.is_compiling():
        return reference.linear(x, weight, bias)
    if x.numel() * weight.shape[0] < kernel_onednn.LEAST and backend == "auto":  # a step of one token is in a hurry
        return reference.linear(x, weight, bias)
    chosen = choose("linear", backend, x.device.type, x.dtype)
    if chosen == "onednn" and kernel_onednn.takes(x, weight):
        return kernel_onednn.linear(x, weight, bias)
    return reference.linear(x, weight, bias)
