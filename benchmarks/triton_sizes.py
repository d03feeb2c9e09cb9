"""The sizes at which Triton kernels are compiled: calls of every op's backend as models make them, first the usual one.

A call takes the dtype of the operands and returns what the backend returns. T, and whatever else the programs do not
depend on, is small. Inputs require gradients, so that the backward pass can follow.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from matrixstate.ops import M2RNNWeights
from matrixstate.ops.cells import kernel_triton as cells
from matrixstate.ops.conv import kernel_triton as conv
from matrixstate.ops.m2rnn import kernel_triton as m2rnn
from matrixstate.ops.matrix import ScaledState
from matrixstate.ops.matrix import kernel_triton as matrix
from matrixstate.ops.mru import kernel_triton as mru
from matrixstate.ops.mru.builders import BUILDERS
from matrixstate.ops.scan import kernel_triton as scan
from matrixstate.ops.snap import kernel_triton as snap


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype, requires_grad=True)


def m2rnn_scan(V: int, dtype: torch.dtype, K: int = 64, heads: int = 84) -> Any:
    """Shared q and k, as in the paper's layer."""
    q, k, v = (leaf(1, 2, n, width, dtype=dtype) for n, width in ((1, K), (1, K), (heads, V)))
    w, f, state = leaf(heads, V, V, dtype=dtype), leaf(1, 2, heads), leaf(1, heads, K, V)
    return m2rnn.m2rnn_scan(q, k, v, w, f, state, None, None)


def mru_scan(D: int, builder: str, kind: str, dtype: torch.dtype, T: int = 2, heads: int = 12) -> Any:
    """kind: "product", rescaled and bounded, or "written", with V and decays, read out as it is."""
    elements = leaf(1, T, heads, BUILDERS[builder].elements(D), dtype=dtype)
    down, matrix = leaf(heads, D, D), leaf(1, heads, D, D)
    if kind == "product":
        state = ScaledState(matrix, torch.zeros(1, heads, dtype=torch.int32))
        return mru.mru_scan(elements, down, None, None, state, None, None, builder, "bounded", 2.0, "chunked")
    v, decay = leaf(1, T, heads, D, D, dtype=dtype), leaf(1, T, heads)
    return mru.mru_scan(elements, down, v, decay, matrix, None, None, builder, "state", 2.0, "chunked")


def m2rnn_step(V: int, dtype: torch.dtype, K: int = 64, heads: int = 84) -> Any:
    """One token of the same layer."""
    C = 2 * K + heads * V
    rate, bias, norm, w = leaf(heads), leaf(heads), leaf(heads * V), leaf(heads, V, V)
    weights = M2RNNWeights((1, 1, heads), False, leaf(C, 4), rate, bias, w, leaf(heads, V), norm)
    x, past, state = leaf(1, 1, C + heads + heads * V, dtype=dtype), leaf(1, 3, C), leaf(1, heads, K, V)
    return m2rnn.m2rnn_step(x, weights, past, state)


def causal_conv(K: int, dtype: torch.dtype, C: int = 1344) -> Any:
    """With silu and without a bias, as layers call it."""
    x, weight, state = leaf(1, 16, C, dtype=dtype), leaf(C, K, dtype=dtype), leaf(1, K - 1, C)
    return conv.causal_conv(x, weight, None, state, None, "silu")


def cell(kind: str, heads: int, d: int, dtype: torch.dtype) -> Any:
    """The inputs of all gates are parts of one projection."""
    count = {"rnn": 1, "gru": 3, "gru after": 3, "lstm": 4}[kind]
    x = leaf(1, 2, count, heads, d, dtype=dtype).unbind(dim=2)
    w, state = [leaf(heads, d, d, dtype=dtype) for _ in x], leaf(1, heads, d)
    if kind == "rnn":
        return cells.rnn_scan(*x, *w, state, None, None, None)
    if kind == "lstm":
        return cells.lstm_scan(*x, *w, state, leaf(1, heads, d), None, None, None)
    return cells.gru_scan(*x, *w, leaf(d) if "after" in kind else None, state, None, None, None)


def matrix_scan(D: int, affine: bool, dtype: torch.dtype, method: str = "auto") -> Any:
    x, v, state = leaf(1, 4, 1, D, D, dtype=dtype), leaf(1, 4, 1, D, D, dtype=dtype), leaf(1, 1, D, D)
    return matrix.matrix_scan(x, v if affine else None, state, None, method)


def scaled_matrix_scan(D: int, dtype: torch.dtype, method: str = "auto") -> Any:
    x, exponent = leaf(1, 4, 1, D, D, dtype=dtype), torch.zeros(1, 1, dtype=torch.int32)
    h, log_scale, last, _ = matrix.scaled_matrix_scan(x, leaf(1, 1, D, D), exponent, None, method)
    return h, log_scale, last


def snap_scan(D: int, codes: int, heads: int, dtype: torch.dtype) -> Any:
    """`heads` of one group; the layers have one head a group."""
    x, keys, values = leaf(1, 8, heads, D, D, dtype=dtype), leaf(1, codes, heads, D, D), leaf(1, codes, heads, D, D)
    phase = torch.zeros(1, dtype=torch.int32)
    h, last, _ = snap.snap_scan(x, keys, values, leaf(1, heads, D, D), phase, 8, None, None)
    return h, last


def linear_scan(is_log: bool, shared: bool, dtype: torch.dtype) -> Any:
    x, decay = leaf(1, 16, 8, 128, dtype=dtype), leaf(1, 16, 8, 1 if shared else 128)
    return scan.linear_scan(x, decay, is_log, leaf(1, 8, 128), None, "auto")


SIZES: dict[str, dict[str, Callable[[torch.dtype], Any]]] = {
    "causal_conv": {f"K {K}": partial(causal_conv, K) for K in (4, 2)},
    "gru_scan": {
        "8 heads, d 64": partial(cell, "gru", 8, 64),
        "8 heads, d 64, reset after": partial(cell, "gru after", 8, 64),
        "1 head, d 512": partial(cell, "gru", 1, 512),
    },
    "linear_scan": {
        "a logarithm per channel": partial(linear_scan, True, False),
        "a decay per head": partial(linear_scan, False, True),
    },
    "lstm_scan": {"8 heads, d 64": partial(cell, "lstm", 8, 64), "1 head, d 512": partial(cell, "lstm", 1, 512)},
    "m2rnn_scan": {f"K 64, V {V}": partial(m2rnn_scan, V) for V in (16, 32, 64)}
    | {"one token, K 64, V 16": partial(m2rnn_step, 16)},
    "rnn_scan": {"8 heads, d 64": partial(cell, "rnn", 8, 64)},
    "matrix_scan": {
        f"D {D}{', v' if affine else ''}": partial(matrix_scan, D, affine)
        for D in (16, 32, 64)
        for affine in (True, False)
    }
    | {"D 16, v, in chunks": partial(matrix_scan, 16, True, method="chunked")},
    "scaled_matrix_scan": {f"D {D}": partial(scaled_matrix_scan, D) for D in (16, 32)}
    | {"D 16, in chunks": partial(scaled_matrix_scan, 16, method="chunked")},
    "snap_scan": {
        f"D {D}, {codes} codes, {heads} heads a group": partial(snap_scan, D, codes, heads)
        for D, codes, heads in ((12, 512, 1), (6, 60, 1), (4, 6, 1), (16, 64, 4), (32, 64, 1))
    },
    "mru_scan": {
        f"D 16, {builder}, {kind}": partial(mru_scan, 16, builder, kind)
        for kind in ("product", "written")
        for builder in ("ldu", "cayley", "reshape_identity")
    }
    | {f"D 16, ldu, {kind}, chunks": partial(mru_scan, 16, "ldu", kind, T=64) for kind in ("product", "written")},
}
