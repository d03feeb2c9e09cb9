"""Pure functions on tensors. Every op: `y, state = op(inputs..., state=None, *, reset=None, backend="auto")`."""

from matrixstate.ops._checks import accumulation_dtype
from matrixstate.ops._dispatch import OPS, backends, prefer
from matrixstate.ops.attn import AttentionState, attention
from matrixstate.ops.cells import LSTMState, gru_scan, lstm_scan, rnn_scan
from matrixstate.ops.conv import causal_conv
from matrixstate.ops.conv.step import gated_conv_step
from matrixstate.ops.delta import delta_rule, delta_scan, gated_delta_product, gated_delta_rule
from matrixstate.ops.m2rnn import m2rnn_scan
from matrixstate.ops.m2rnn.step import m2rnn_step
from matrixstate.ops.m2rnn.weights import M2RNNWeights
from matrixstate.ops.matrix import ScaledState, matrix_scan, scaled_matrix_scan
from matrixstate.ops.mru import mru_scan
from matrixstate.ops.mru.decays import write_share
from matrixstate.ops.mru.step import mru_step
from matrixstate.ops.mru.weights import MRUWeights
from matrixstate.ops.outer import linear_attention, outer_scan
from matrixstate.ops.snap import SnapState, snap_scan

__all__ = [
    "OPS",
    "AttentionState",
    "LSTMState",
    "M2RNNWeights",
    "MRUWeights",
    "ScaledState",
    "SnapState",
    "accumulation_dtype",
    "attention",
    "backends",
    "causal_conv",
    "delta_rule",
    "delta_scan",
    "gated_conv_step",
    "gated_delta_product",
    "gated_delta_rule",
    "gru_scan",
    "linear_attention",
    "lstm_scan",
    "m2rnn_scan",
    "m2rnn_step",
    "matrix_scan",
    "mru_scan",
    "mru_step",
    "outer_scan",
    "prefer",
    "rnn_scan",
    "scaled_matrix_scan",
    "snap_scan",
    "write_share",
]
