"""Pure functions on tensors. Every op: `y, state = op(inputs..., state=None, *, reset=None, backend="auto")`."""

import torch

from matrixstate.ops import attn, conv, m2rnn, matrix
from matrixstate.ops._dispatch import Backend, select
from matrixstate.ops.attn import AttentionState, attention
from matrixstate.ops.conv import causal_conv
from matrixstate.ops.m2rnn import m2rnn_scan
from matrixstate.ops.matrix import ScaledState, matrix_scan, scaled_matrix_scan

OPS: dict[str, tuple[Backend, ...]] = {
    "attention": attn.BACKENDS,
    "causal_conv": conv.BACKENDS,
    "m2rnn_scan": m2rnn.BACKENDS,
    "matrix_scan": matrix.BACKENDS,
    "scaled_matrix_scan": matrix.BACKENDS,
}
"""Every op's backends, in the order in which "auto" tries them."""


def backends(device: str, dtype: torch.dtype) -> dict[str, str]:
    """The backend that "auto" takes for each op."""
    return {op: select(op, choices, "auto", device, dtype) for op, choices in OPS.items()}


__all__ = [
    "OPS",
    "AttentionState",
    "ScaledState",
    "attention",
    "backends",
    "causal_conv",
    "m2rnn_scan",
    "matrix_scan",
    "scaled_matrix_scan",
]
