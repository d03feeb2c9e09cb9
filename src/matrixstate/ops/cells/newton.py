"""All steps of a cell at once: Newton's method on the whole trajectory, each iteration one scan (DEER, quasi-DEER).

The trajectory y solves y_t = f_t(y_{t-1}). From a guess Y, the equation linearised at Y is the affine recurrence

    y_t = f_t(Y_{t-1}) + J_t (y_{t-1} - Y_{t-1}),    J_t = ∂f_t/∂y at Y_{t-1}

whose solution, by a scan, is the next guess; quasi-DEER keeps the diagonal of J alone. Vectors are rows here, so the
scans multiply by the transpose of J from the right.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from matrixstate.ops._checks import full_precision
from matrixstate.ops._heads import share
from matrixstate.ops.cells.equations import Cell, State
from matrixstate.ops.matrix import matrix_scan
from matrixstate.ops.scan import linear_scan

Mode = Literal["deer", "quasi_deer"]
ENTRIES_AT_ONCE = 16  # of f, whose gradients are computed together; as many copies of all gates are held


@dataclass(frozen=True)
class Steps:
    """The function f of all steps at once, from the states [B, T, H, n] before them to those after them.

    The state of a head is its tensors of d numbers, one after another: n = d·len(cell.state). A padded step is the
    identity, exactly, and so is its Jacobian.
    """

    cell: Cell
    tensors: dict[str, Tensor]  # the inputs [B·T, H, d], for a cell knows no steps, and the weights
    padded: Tensor | None  # [B, T, 1, 1] bool

    def __call__(self, before: Tensor) -> Tensor:
        parts = before.flatten(0, 1).chunk(len(self.cell.state), dim=-1)
        after = torch.cat(self.cell.step(parts, **self.tensors), dim=-1).view(before.shape)
        return after if self.padded is None else torch.where(self.padded, before, after)

    def jacobian(self, before: Tensor) -> Tensor:
        """[B, T, H, n, n], at [..., i, j] the derivative of entry j of f with respect to entry i of `before`."""
        return self._of_every_entry(lambda _, gradient: gradient, before)

    def diagonal(self, before: Tensor) -> Tensor:
        """[B, T, H, n], the diagonal of `jacobian`, which is not held."""
        return self._of_every_entry(lambda entry, gradient: (gradient * entry).sum(-1), before)

    def _of_every_entry(self, kept: Callable[[Tensor, Tensor], Tensor], before: Tensor) -> Tensor:
        """What is kept of the gradients of each of n entries, along the last axis."""
        pull = torch.func.vjp(self, before)[1]

        def of_one(entry: Tensor) -> Tensor:  # of all heads, rows and steps at once, for they do not mix
            (gradient,) = pull(entry.expand_as(before))
            # where a padded input is NaN, so is its gradient
            return kept(entry, gradient if self.padded is None else torch.where(self.padded, entry, gradient))

        entries = torch.eye(before.shape[-1], dtype=before.dtype, device=before.device)
        return torch.vmap(of_one, out_dims=-1, chunk_size=ENTRIES_AT_ONCE)(entries)


class Solution(NamedTuple):
    """Where the iterations ended."""

    trajectory: Tensor  # [B, T, H, n]
    iterations: int
    residual: float  # max |y_t - f_t(y_{t-1})| / max |y|
    converged: bool


def tolerance(dtype: torch.dtype) -> float:
    """The bound of the residual and of the last change of the trajectory, relative to its largest entry."""
    return 1e-7 if dtype == torch.float64 else 1e-4


def newton_scan(
    cell: Cell,
    inputs: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    state: State,
    mask: Tensor | None,
    reset: Tensor | None,
    mode: Mode,
    max_iterations: int,
    by_steps: Callable[..., Any],
) -> tuple[Tensor, State]:
    """As `cell_scan` of a backend. `by_steps` is that of the backend that runs if the iterations do not converge."""
    x = inputs[cell.inputs[0]]
    first = torch.cat(state, dim=-1)
    with full_precision(x):
        H, dtype = first.shape[1], first.dtype
        tensors = {name: share(a.to(dtype), 2, H).flatten(0, 1) for name, a in inputs.items()}
        tensors |= {name: share(w.to(dtype), 0, H) for name, w in weights.items()}
        f = Steps(cell, tensors, None if mask is None else ~mask[..., None, None])
        found = solve(f, x.shape[1], first, reset, mode, max_iterations)
        if not found.converged:
            warnings.warn(
                f"cell_scan: mode {mode!r} of {cell.name} has not converged after {found.iterations} iterations: max "
                f"|y_t - f(y_(t-1))| is {found.residual:.3g} of max |y|, expected at most {tolerance(dtype):.0e}; the "
                "cell runs step by step instead",
                RuntimeWarning,
                stacklevel=3,
            )
            return by_steps(cell, inputs, weights, state, None, mask, reset)
        y = found.trajectory
        if torch.is_grad_enabled() and any(a.requires_grad for a in (first, *tensors.values())):
            y = _with_gradient(f, first, y, reset)
    parts = y.chunk(len(state), dim=-1)
    return parts[0].to(x.dtype).contiguous(), tuple(part[:, -1].contiguous() for part in parts)


@torch.no_grad()
def solve(f: Steps, length: int, first: Tensor, reset: Tensor | None, mode: Mode, max_iterations: int) -> Solution:
    """Newton's method from zeros, until the last change of the trajectory and its residual are small enough.

    The first k steps are exact after k iterations, or fewer where the recurrence is nearly linear.
    """
    B, *sizes = first.shape
    y, change, iterations = first.new_zeros(B, length, *sizes), float("inf"), 0
    step = _diagonal_step if mode == "quasi_deer" else _full_step
    while True:
        before = _before(first, y, reset)
        after = f(before)
        size, error = torch.stack([y.abs().max(), (after - y).abs().max()]).tolist()
        converged = max(error, change) <= tolerance(y.dtype) * size
        if converged or iterations == max_iterations:
            return Solution(y, iterations, error / size if size else error, converged)
        new = step(f, before, after, first, reset)
        new.masked_fill_(~new.isfinite(), 0)  # they start again
        y, change, iterations = new, (new - y).abs().max().item(), iterations + 1


def _before(first: Tensor, y: Tensor, reset: Tensor | None) -> Tensor:
    """The states before all steps."""
    before = torch.cat([first[:, None], y[:, :-1]], dim=1)
    return before if reset is None else before.masked_fill(reset[..., None, None], 0)


def _full_step(f: Steps, before: Tensor, after: Tensor, first: Tensor, reset: Tensor | None) -> Tensor:
    rows = f.jacobian(before)
    return _affine(rows, after - _times(before, rows), first, reset)


def _diagonal_step(f: Steps, before: Tensor, after: Tensor, first: Tensor, reset: Tensor | None) -> Tensor:
    slopes = f.diagonal(before)
    return linear_scan(after - slopes * before, decay=slopes, state=first, reset=reset)[0]


def _affine(rows: Tensor, added: Tensor, first: Tensor, reset: Tensor | None) -> Tensor:
    return matrix_scan(rows, added[..., None, :], first[..., None, :], reset=reset)[0].squeeze(-2)


def _times(before: Tensor, rows: Tensor) -> Tensor:
    return (before[..., None, :] @ rows).squeeze(-2)


def _with_gradient(f: Steps, first: Tensor, y: Tensor, reset: Tensor | None) -> Tensor:
    """The solution y as a function of first state, inputs and weights.

    Its derivative is that of one more step of Newton's method from y with J and y held constant, for what they
    contribute vanishes where y_t = f_t(y_{t-1}): backward, one scan and the gradient of f at all steps.
    """
    before = _before(first.detach(), y, reset)
    with torch.no_grad():
        rows = f.jacobian(before)
        known = _times(before, rows)
    after, first = _Once.apply(f(before), first)
    step = _affine(rows, after - known, first, reset)
    return y + (step - step.detach())  # the value is y, exactly


class _Once(torch.autograd.Function):
    """The identity, without second derivatives: constant J and y would make them wrong."""

    @staticmethod
    def forward(ctx: Any, after: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        return after.clone(), first.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dafter: Tensor, dfirst: Tensor) -> tuple[Tensor, Tensor]:
        return dafter, dfirst
