"""Pure functions on tensors. Every op: `y, state = op(inputs..., state=None, *, reset=None, backend="auto")`."""

from matrixstate.ops._checks import accumulation_dtype
from matrixstate.ops._dispatch import OPS, backends, prefer
from matrixstate.ops.attn import AttentionState, attention
from matrixstate.ops.conv import causal_conv
from matrixstate.ops.m2rnn import m2rnn_scan
from matrixstate.ops.matrix import ScaledState, matrix_scan, scaled_matrix_scan

__all__ = [
    "OPS",
    "AttentionState",
    "ScaledState",
    "accumulation_dtype",
    "attention",
    "backends",
    "causal_conv",
    "m2rnn_scan",
    "matrix_scan",
    "prefer",
    "scaled_matrix_scan",
]
