"""Pure functions on tensors, with one signature on every backend.

    y, state = op(inputs..., state=None, *, reset=None, backend="auto")

What holds for all of them:

* A state is what the last call returned, or None for the op's default. It is differentiable, has at least the precision
  of float32, and never changes its type. A sequence may be split into calls anywhere: outputs, states and gradients are
  the same.
* `reset` [B, T] bool is True at a document's first step: the state is reset to the default before that step, and no
  gradient passes. `mask` [B, T] bool, where an op takes one, is False at padding: a padded step leaves the state
  unchanged, bit for bit, and its y is undefined.
* Sums, decays and states are in at least float32, inside autocast too; y has the dtype of the inputs. float64 inputs
  are computed in float64.
* `backend="auto"` takes the first backend of `OPS[op]` that can run the inputs; a name takes that one or raises
  `BackendUnavailable` with its reason. `prefer` changes what "auto" takes.
* Inputs are never written, and T = 0 is legal. Wrong shapes, dtypes and devices raise `ShapeError`.

Each folder has the op's functions (`__init__.py`), its definition (`reference.py`), further backends, and a README that
derives the formulas. Units that several ops share are the modules with an underscore.
`linear`, which has no state, is torch.nn.functional.linear with a choice of backends.
"""

from matrixstate.ops._checks import accumulation_dtype
from matrixstate.ops._dispatch import OPS, backends, prefer
from matrixstate.ops.attn import AttentionState, ForgettingState, attention
from matrixstate.ops.cells import CELLS, Cell, LSTMState, cell_scan, gru_scan, lstm_scan, rnn_scan
from matrixstate.ops.conv import causal_conv
from matrixstate.ops.conv.long import long_conv
from matrixstate.ops.conv.step import gated_conv_step
from matrixstate.ops.delta import delta_rule, delta_scan, gated_delta_product, gated_delta_rule
from matrixstate.ops.linear_map import linear
from matrixstate.ops.lti import lti_scan
from matrixstate.ops.lti.dense import dense_lti_scan
from matrixstate.ops.m2rnn import m2rnn_scan
from matrixstate.ops.m2rnn.step import m2rnn_step
from matrixstate.ops.m2rnn.weights import M2RNNWeights
from matrixstate.ops.matrix import ScaledState, matrix_scan, scaled_matrix_scan
from matrixstate.ops.mru import mru_scan
from matrixstate.ops.mru.decays import write_share
from matrixstate.ops.mru.step import mru_step
from matrixstate.ops.mru.weights import MRUWeights
from matrixstate.ops.outer import linear_attention, outer_scan
from matrixstate.ops.outer.mlstm import MLSTMState, mlstm_scan
from matrixstate.ops.outer.turned import phased_outer_scan, signed_outer_scan
from matrixstate.ops.quotient import NormalisedState, normalised_scan
from matrixstate.ops.scan import linear_scan
from matrixstate.ops.selective import selective_scan
from matrixstate.ops.snap import SnapState, snap_scan

__all__ = [
    "CELLS",
    "OPS",
    "AttentionState",
    "Cell",
    "ForgettingState",
    "LSTMState",
    "M2RNNWeights",
    "MLSTMState",
    "MRUWeights",
    "NormalisedState",
    "ScaledState",
    "SnapState",
    "accumulation_dtype",
    "attention",
    "backends",
    "causal_conv",
    "cell_scan",
    "delta_rule",
    "delta_scan",
    "dense_lti_scan",
    "gated_conv_step",
    "gated_delta_product",
    "gated_delta_rule",
    "gru_scan",
    "linear",
    "linear_attention",
    "linear_scan",
    "long_conv",
    "lstm_scan",
    "lti_scan",
    "m2rnn_scan",
    "m2rnn_step",
    "matrix_scan",
    "mlstm_scan",
    "mru_scan",
    "mru_step",
    "normalised_scan",
    "outer_scan",
    "phased_outer_scan",
    "prefer",
    "rnn_scan",
    "scaled_matrix_scan",
    "selective_scan",
    "signed_outer_scan",
    "snap_scan",
    "write_share",
]
