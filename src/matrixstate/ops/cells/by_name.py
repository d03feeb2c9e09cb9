"""One op for every vector cell: by name, or a cell of one's own."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import expect, expect_clip, expect_flags, expect_floating, first_state
from matrixstate.ops._dispatch import implementation
from matrixstate.ops._heads import most_heads
from matrixstate.ops.cells.equations import CELLS, Cell
from matrixstate.ops.cells.newton import newton_scan

OP = "cell_scan"
MODES = ("steps", "deer", "quasi_deer")


def cell_scan(
    cell: str | Cell,
    inputs: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    state: tuple[Tensor, ...] | None = None,
    *,
    grad_clip: float | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    mode: Literal["steps", "deer", "quasi_deer"] = "steps",
    max_iterations: int = 100,
    backend: str = "auto",
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Any cell along the sequence, one step after another or all steps at once. Sizes are those of `rnn_scan`.

    Args:
        cell: a name from `CELLS`, or a `Cell`. One of one's own runs in plain PyTorch, backend "reference".
        inputs: for each name in `cell.inputs` a [B, T, H·, d] floating point tensor, all of one dtype.
        weights: for each name in `cell.matrices` a [H·, d, d] and in `cell.vectors` a [H·, d] floating point tensor,
            all of one dtype. A vector serves a diagonal recurrence or the peepholes of an LSTM.
        state: a tensor [B, H, d] for each name in `cell.state`, in the dtype of the inputs but at least float32.
            Default: zeros.
        grad_clip, mask, reset: as in `rnn_scan`; the gradients of all the state's tensors are clamped.
        mode: "steps" computes one step after another. "deer" solves for all steps at once by Newton's method, each
            iteration of which is a `matrix_scan` with the Jacobians of all steps; the gradient is one more such scan.
            "quasi_deer" keeps the diagonals of the Jacobians (a `linear_scan`), which takes more and cheaper
            iterations; it needs the whole Jacobians once if there are gradients. The cell must be differentiable in
            its state, and heads, rows of the batch and steps independent of each other. The iterations end when the
            largest residual and the last change are below 1e-7 of the largest entry of the states in float64, 1e-4 in
            float32. Where they do not (a chaotic cell), a RuntimeWarning says so and "steps" computes the result.
        max_iterations: the most iterations of "deer" and "quasi_deer".
        backend: of "steps". "auto" takes the first that can run; a name from `OPS` takes that one or raises.

    Returns:
        y: [B, T, H, d], dtype of the inputs. The first tensor of the state after every step.
        state: the tensors after the last step, to be passed to the next call.

    Raises:
        ShapeError: an unknown cell or mode, other names than the cell's, a shape, dtype or device other than the above,
            head counts that do not divide, or `grad_clip` with a mode other than "steps", which clips at steps.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·T·H·d² multiply-adds for each matrix. An iteration of "deer", with n = d·len(cell.state), costs n times
    that and B·T·H·n² (sequential on a CPU) to B·T·H·n³ for the scan, and holds B·T·H·n² numbers; of "quasi_deer" n
    times that, and holds B·T·H·n. Second derivatives exist with "steps" alone.
    Sources: README of this folder; Lim et al. 2024 (DEER); Gonzalez et al. 2024 (quasi-DEER).
    """
    cell = _named(cell)
    _expect_names("inputs", inputs, cell.inputs, cell)
    _expect_names("weights", weights, cell.matrices + cell.vectors, cell)
    x = inputs[cell.inputs[0]]
    expect_floating(OP, cell.inputs[0], x, "B T H d")
    B, T, _, d = x.shape
    for name in cell.inputs:
        expect_floating(OP, name, inputs[name], "B T H d")
        expect(OP, name, inputs[name], (B, T, inputs[name].shape[2], d), x)
    for names, width in ((cell.matrices, (d, d)), (cell.vectors, (d,))):
        for name in names:
            expect_floating(OP, name, weights[name], " ".join(["H", *"d" * len(width)]))
            expect(OP, name, weights[name], (weights[name].shape[0], *width), x, next(iter(weights.values())).dtype)
    heads = {name: a.shape[2] for name, a in inputs.items()} | {name: w.shape[0] for name, w in weights.items()}
    H = most_heads(OP, **heads)
    expect_clip(OP, grad_clip)
    _expect_mode(mode, max_iterations, grad_clip)
    expect_flags(OP, x, mask=mask, reset=reset)
    if state is not None and (not isinstance(state, tuple) or len(state) != len(cell.state)):
        found = f"{len(state)} tensors" if isinstance(state, tuple) else type(state).__name__
        raise ShapeError(f"{OP}: state must be a tuple of {', '.join(cell.state)} for {cell.name}, got {found}")
    given = (None,) * len(cell.state) if state is None else state
    first = tuple(first_state(OP, s, (B, H, d), x, f"state.{name}") for name, s in zip(cell.state, given, strict=True))
    known = CELLS.get(cell.name) is cell
    run = implementation(OP, backend, x.device.type, x.dtype, cell.name if known else "a Cell of one's own")
    if T == 0:
        return x.new_zeros(B, 0, H, d), first
    reset = reset if reset is None or mask is None else reset & mask
    if mode != "steps" and B > 0:
        return newton_scan(cell, inputs, weights, first, mask, reset, mode, max_iterations, run)
    return run(cell, inputs, weights, first, grad_clip, mask, reset)


def _named(cell: str | Cell) -> Cell:
    if isinstance(cell, Cell):
        return cell
    if cell not in CELLS:
        raise ShapeError(f"{OP}: cell must be a Cell or one of {', '.join(CELLS)}, got {cell!r}")
    return CELLS[cell]


def _expect_mode(mode: str, max_iterations: int, grad_clip: float | None) -> None:
    if mode not in MODES:
        raise ShapeError(f"{OP}: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if max_iterations < 1:
        raise ShapeError(f"{OP}: max_iterations must be at least 1, got {max_iterations}")
    if mode != "steps" and grad_clip is not None:
        raise ShapeError(f"{OP}: grad_clip must be None with mode {mode!r}, got {grad_clip}")


def _expect_names(argument: str, tensors: Mapping[str, Tensor], names: tuple[str, ...], cell: Cell) -> None:
    if set(tensors) != set(names):
        wanted, found = ", ".join(names), ", ".join(tensors) or "none"
        raise ShapeError(f"{OP}: {argument} of {cell.name} must be {wanted}, got {found}")
