"""The Triton kernels of the causal convolution (triton_programs.py) as PyTorch operators."""

import torch
from torch import Tensor

from matrixstate.ops import _triton
from matrixstate.ops._operators import dense, fresh, operator
from matrixstate.ops.conv import triton_programs
from matrixstate.ops.conv.operators import complete
from matrixstate.ops.conv.reference import gated_conv_step  # one token is no work for a kernel

__all__ = ["causal_conv", "gated_conv_step", "unsupported"]

MOST_TAPS = 8  # that fit into registers with the steps of a program
MOST_STEPS, MOST_BACK = 16, 8  # that a program unrolls, forward and backward: so many that no register is spilled
BLOCKS = 8  # of steps: a backward program writes one gradient of the filter for all of them
CHANNELS, WARPS = 128, 2  # of a program: two channels a thread


def unsupported(device: str, dtype: torch.dtype, *details: str) -> str | None:
    """Why the kernel cannot run such inputs; None if it can."""
    if "K > 8" in details:
        return f"keeps the inputs of a filter in registers, for which K must be at most {MOST_TAPS}"
    return _triton.unsupported(device, dtype)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, reset: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    weight, bias = weight.to(torch.float32), None if bias is None else bias.to(torch.float32)
    return torch.ops.matrixstate.causal_conv_triton(x, weight, bias, state, reset, activation == "silu")


def _constants(weight: Tensor, reset: Tensor | None, silu: bool) -> dict[str, int]:
    """The constants and the number of warps of both programs."""
    C, K = weight.shape
    return {"C": C, "K": K, "CHANNELS": CHANNELS, "RESETS": reset is not None, "SILU": silu, "warps": WARPS}


def _steps(most: int, steps: int) -> int:
    """The steps that a program unrolls: no more than there are, to the next power of two."""
    return min(most, _triton.padded(steps, least=1))


@operator("causal_conv_triton", "CUDA", "CPU")
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, reset: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """y and the last state."""
    (B, T, C), y, last = x.shape, fresh(x), fresh(state)
    steps = _steps(MOST_STEPS, T)
    grid = B * -(-T // steps), -(-C // CHANNELS)
    arguments = *dense(x, weight, bias, state), _triton.flags_if_any(reset), y, last, T
    _triton.launch(triton_programs.forward, grid, arguments, STEPS=steps, **_constants(weight, reset, silu))
    return y, last


@operator("causal_conv_triton_backward", "CUDA", "CPU")
def _backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    reset: Tensor | None,
    silu: bool,
    dy: Tensor,
    dlast: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias (empty where there is none) and the first state."""
    (B, T, C), K = x.shape, weight.shape[1]
    steps = _steps(MOST_BACK, T + K - 1)
    programs = -(-(T + K - 1) // (BLOCKS * steps))
    dx, dstate, dfilter = fresh(x), fresh(state), fresh(weight, B * programs, K + 1, C)
    arguments = *dense(x, weight, bias, state), _triton.flags_if_any(reset), *dense(dy, dlast), dx, dstate, dfilter, T
    constants = _constants(weight, reset, silu) | {"STEPS": steps, "BLOCKS": BLOCKS}
    _triton.launch(triton_programs.backward, (B * programs, -(-C // CHANNELS)), arguments, **constants)
    of_lags = dfilter.sum(dim=0)  # the program's parts, in one order
    dbias = of_lags[K].clone() if bias is not None else fresh(weight, 0)
    return dx, of_lags[:K].flip(0).T.contiguous(), dbias, dstate


complete("triton")
