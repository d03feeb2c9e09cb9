"""The kernels of the cells (csrc/cells/) as PyTorch operators.

The gradient of a gate's weights is one product over all steps, which is left to PyTorch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from matrixstate import _native
from matrixstate.ops import _cpu
from matrixstate.ops._checks import full_precision, widened
from matrixstate.ops._heads import share
from matrixstate.ops._operators import (
    dense,
    differentiable,
    differentiable_once,
    fresh,
    needs_gradient,
    operator,
    refuse_tangents,
)
from matrixstate.ops.cells.equations import Cell, State
from matrixstate.ops.cells.weights import states_before

__all__ = ["cell_scan", "gru_scan", "lstm_scan", "rnn_scan", "unsupported"]


class Shape(NamedTuple):
    """The numbers of csrc/cells/cells.h."""

    index: int
    gates: int
    saved: int
    rest: int
    vectors: int
    second: int
    inner: int
    is_diagonal: bool


SHAPES = {name: Shape(*numbers) for name, numbers in _native.cell_shapes().items()}
ORDER = ("1", "2", "z", "y", "m", "i", "f", "r", "o", "")  # of gates in the kernels' arrays, as far as a cell has them


def unsupported(device: str, dtype: torch.dtype, cell: str = "rnn") -> str | None:
    """Why the kernels cannot run such inputs of a cell, given by its name; None if they can."""
    if cell not in SHAPES:
        return f"has no equations for {cell}, but for {', '.join(SHAPES)}"
    return _cpu.unsupported(device, dtype)


def cell_scan(
    cell: Cell,
    inputs: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    state: State,
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, State]:
    """As the reference."""
    (h, *rest), dtype = state, inputs[cell.inputs[0]].dtype

    def ordered(names: tuple[str, ...], tensors: Mapping[str, Tensor]) -> list[Tensor]:
        return [tensors[name].to(h.dtype) for name in sorted(names, key=lambda name: ORDER.index(name[1:]))]

    x, w, vectors = ordered(cell.inputs, inputs), ordered(cell.matrices, weights), ordered(cell.vectors, weights)
    rest = torch.stack(rest) if rest else None
    vectors = torch.stack([share(v, 0, h.shape[1]) for v in vectors]) if vectors else None
    with full_precision(h):
        y, h, rest = _run("cell_scan", cell.name, x, w, vectors, h, rest, mask, reset, grad_clip)
    parts = rest.unbind()
    return y.to(dtype), (h, *(parts if len(parts) < 2 else [p.clone() for p in parts]))  # a state owns its memory


@widened
def rnn_scan(
    x: Tensor, w: Tensor, h: Tensor, grad_clip: float | None, mask: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    return _run("rnn_scan", "rnn", [x], [w], None, h, None, mask, reset, grad_clip)[:2]


@widened
def gru_scan(
    x: Tensor,
    xf: Tensor,
    xr: Tensor,
    w: Tensor,
    wf: Tensor,
    wr: Tensor,
    bias: Tensor | None,
    h: Tensor,
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    kind = "gru" if bias is None else "gru_after"
    vectors = None if bias is None else bias.expand(1, *h.shape[1:])
    return _run("gru_scan", kind, [xf, xr, x], [wf, wr, w], vectors, h, None, mask, reset, grad_clip)[:2]


@widened
def lstm_scan(
    x: Tensor,
    xi: Tensor,
    xf: Tensor,
    xo: Tensor,
    w: Tensor,
    wi: Tensor,
    wf: Tensor,
    wo: Tensor,
    h: Tensor,
    c: Tensor,
    grad_clip: float | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference."""
    x_of_gates, w_of_gates = [xi, xf, xo, x], [wi, wf, wo, w]
    y, h, rest = _run("lstm_scan", "lstm", x_of_gates, w_of_gates, None, h, c[None], mask, reset, grad_clip)
    return y, h, rest[0]


def _run(
    op: str,
    kind: str,
    x: list[Tensor],
    w: list[Tensor],
    vectors: Tensor | None,
    h: Tensor,
    rest: Tensor | None,
    mask: Tensor | None,
    reset: Tensor | None,
    grad_clip: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs the operator of `op` -> y, the last h and rest.

    Args:
        kind: a key of SHAPES.
        x, w: of the gates in the order of the kernels; no w for a diagonal cell.
        vectors: [vectors, H, d] or None.
        rest: [rest, B, H, d], the state beside h; None if there is none (returned is then [0]).
    """
    H = h.shape[1]
    inputs = [share(a, 2, H) for a in x]
    weights = [share(a, 0, H) for a in w]
    tensors = (*inputs, *weights, vectors, h, rest)
    refuse_tangents(op, tensors)  # the operator's own check does not find the tensors in lists
    run = getattr(torch.ops.matrixstate, f"{op}_cpu")
    save = needs_gradient(*tensors)
    return run(op, kind, inputs, weights, vectors, h, rest, mask, reset, grad_clip or 0.0, save)[:3]


def _outputs(kind: str, x: list[Tensor], h: Tensor, rest: Tensor | None, save: bool) -> tuple[Tensor, ...]:
    """Uninitialised: y, the last h and rest, what is saved of every step, and rest before it."""
    (B, T), (_, H, d) = x[0].shape[:2], h.shape
    steps = T if save else min(T, 1)
    return (
        fresh(h, B, T, H, d),
        fresh(h),
        fresh(h, 0) if rest is None else fresh(rest),
        fresh(h, steps, SHAPES[kind].saved, B, H, d),
        fresh(h, 0) if rest is None else fresh(h, steps, len(rest), B, H, d),
    )


def _forward(
    op: str,
    kind: str,
    x: list[Tensor],
    w: list[Tensor],
    vectors: Tensor | None,
    h: Tensor,
    rest: Tensor | None,
    mask: Tensor | None,
    reset: Tensor | None,
    clip: float,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, the last h and rest, and for the backward pass what every step saves and rest before it.

    Without `save` the kernel overwrites what one step saves.
    """
    y, last_h, last_rest, saved, rests = outputs = _outputs(kind, x, h, rest, save)
    rows = [
        (a if a.stride(-1) == 1 else a.contiguous()).detach() for a in x
    ]  # not copied: they may be views of one projection
    of_rest = (None, None) if rest is None else (last_rest, rests)
    _native.cell_forward(
        *(SHAPES[kind].index, rows, dense(*w)),
        *dense(vectors, h, rest, mask, reset),
        *(y, last_h, of_rest[0], saved, of_rest[1]),
        torch.get_num_threads(),
    )
    return outputs  # type: ignore[return-value]


def _backward(
    op: str,
    kind: str,
    w: list[Tensor],
    vectors: Tensor | None,
    h: Tensor,
    mask: Tensor | None,
    reset: Tensor | None,
    clip: float,
    y: Tensor,
    saved: Tensor,
    rests: Tensor,
    dy: Tensor,
    dlast_h: Tensor,
    dlast_rest: Tensor | None,
) -> list[Tensor]:
    """The gradients of vectors, h and rest (empty where one is None), and then of each x and each w."""
    shape = SHAPES[kind]
    dx, dh = [fresh(y) for _ in range(shape.gates)], fresh(h)
    drest, dvectors = (None if a is None else fresh(a) for a in (dlast_rest, vectors))
    operand, inner = fresh(y) if shape.second < shape.gates else None, fresh(y) if shape.inner >= 0 else None
    _native.cell_backward(
        *(shape.index, dense(*w), *dense(vectors, h, mask, reset), clip),
        *dense(y, saved, None if drest is None else rests, dy, dlast_h, dlast_rest),
        *(dx, dh, drest, dvectors, operand, inner),
        torch.get_num_threads(),
    )
    dw = []
    if w:
        before = states_before(h, y, reset)
        lefts = [before if operand is None or gate < shape.second else operand for gate in range(len(w))]
        rights = [inner if inner is not None and gate == shape.inner else dx[gate] for gate in range(len(w))]
        dw = [_over_steps(left, right) for left, right in zip(lefts, rights, strict=True)]
    return [*(fresh(h, 0) if a is None else a for a in (dvectors, dh, drest)), *dx, *dw]


def _over_steps(left: Tensor, right: Tensor) -> Tensor:
    """The product of two [B, T, H, d] summed over all steps and rows: [H, d, d]."""
    H, d = left.shape[2:]
    left, right, out = left.flatten(0, 1), right.flatten(0, 1), fresh(left, H, d, d)
    for head in range(H):
        torch.mm(left[:, head].T, right[:, head], out=out[head])
    return out


def _fake_forward(op, kind, x, w, vectors, h, rest, mask, reset, clip, save):
    return _outputs(kind, x, h, rest, save)


def _fake_backward(op, kind, w, vectors, h, mask, reset, clip, y, saved, rests, dy, dlast_h, dlast_rest):
    gradients = [fresh(h, 0) if a is None else fresh(a) for a in (vectors, h, dlast_rest)]
    return [*gradients, *(fresh(y) for _ in range(SHAPES[kind].gates)), *(fresh(a) for a in w)]


def _save_for_backward(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    ctx.op, ctx.kind, _, w, vectors, h, rest, mask, reset, ctx.clip, _ = inputs
    y, _, _, saved, rests = output
    ctx.save_for_backward(vectors, h, mask, reset, y, saved, rests, *w)
    ctx.has_rest = rest is not None
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, dy: Tensor | None, dh: Tensor | None, drest: Tensor | None, *_: Tensor | None) -> tuple:
    vectors, h, mask, reset, y, saved, rests, *w = ctx.saved_tensors
    dy, dh = (torch.zeros_like(like) if d is None else d for d, like in ((dy, y), (dh, h)))
    drest = (torch.zeros_like(rests[0]) if drest is None else drest) if ctx.has_rest else None
    run = getattr(torch.ops.matrixstate, f"{ctx.op}_cpu_backward")
    gradients = run(ctx.op, ctx.kind, w, vectors, h, mask, reset, ctx.clip, y, saved, rests, dy, dh, drest)
    dvectors, dh, drest, *dx = gradients
    dx, dw = dx[: SHAPES[ctx.kind].gates], dx[SHAPES[ctx.kind].gates :]
    dvectors, drest = None if vectors is None else dvectors, drest if ctx.has_rest else None
    return None, None, dx, dw, dvectors, dh, drest, None, None, None, None


def _register(op: str) -> None:
    """Registers the operators of one op, so that errors and profiles name it."""
    operator(f"{op}_cpu")(_forward)
    operator(f"{op}_cpu_backward")(_backward)
    torch.library.register_fake(f"matrixstate::{op}_cpu")(_fake_forward)
    torch.library.register_fake(f"matrixstate::{op}_cpu_backward")(_fake_backward)
    differentiable(f"{op}_cpu", _differentiate, _save_for_backward)
    differentiable_once(f"{op}_cpu_backward", op)


for _op in ("cell_scan", "gru_scan", "lstm_scan", "rnn_scan"):
    _register(_op)
