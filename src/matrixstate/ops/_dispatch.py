"""The only place that knows that an op has several backends."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch

from matrixstate.errors import BackendUnavailable

HINTS = {"matrixstate._native": " (`pip install` builds it where there is a C++17 compiler; see csrc/README.md)"}


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of one op.

    `module` has `unsupported(device, dtype, *details) -> str | None`, a reason in words for the user. Details are the
    options of a call on which that depends; without them it answers for the op's defaults.
    """

    name: str  # what a caller passes as backend=
    module: str  # imported only when first considered
    requires: str = "torch"  # importable name without which `module` cannot be imported

    def why_not(self, device: str, dtype: torch.dtype, *details: str) -> str | None:
        """Why this backend cannot run such inputs; None if it can."""
        if not _is_installed(self.requires):
            return f"{self.requires} is not installed{HINTS.get(self.requires, '')}"
        return _module(self.module).unsupported(device, dtype, *details)


@cache
def _is_installed(name: str) -> bool:
    return find_spec(name) is not None


@cache
def _module(name: str) -> Any:
    return import_module(name)


def _cpu(folder: str) -> Backend:
    return Backend("cpu", f"matrixstate.ops.{folder}.kernel_cpu", requires="matrixstate._native")


def _reference(folder: str) -> Backend:
    return Backend("reference", f"matrixstate.ops.{folder}.reference")


def _chunked(folder: str) -> Backend:
    return Backend("chunked", f"matrixstate.ops.{folder}.chunked")


OPS: dict[str, tuple[Backend, ...]] = {
    "attention": (Backend("sdpa", "matrixstate.ops.attn.kernel_sdpa"), _reference("attn")),
    "causal_conv": (_cpu("conv"), _reference("conv")),
    "delta_scan": (_cpu("delta"), _chunked("delta"), _reference("delta")),
    "gru_scan": (_cpu("cells"), _reference("cells")),
    "lstm_scan": (_cpu("cells"), _reference("cells")),
    "m2rnn_scan": (_cpu("m2rnn"), _reference("m2rnn")),
    "matrix_scan": (_cpu("matrix"), _reference("matrix")),
    "mru_scan": (_cpu("mru"), Backend("composed", "matrixstate.ops.mru.composed"), _reference("mru")),
    "outer_scan": (_cpu("outer"), _chunked("outer"), _reference("outer")),
    "rnn_scan": (_cpu("cells"), _reference("cells")),
    "scaled_matrix_scan": (_cpu("matrix"), _reference("matrix")),
    "snap_scan": (_cpu("snap"), _reference("snap")),
}
"""Every op's backends, in the order in which "auto" tries them."""


_preferred: ContextVar[tuple[str, ...]] = ContextVar("preferred backends", default=())


def choose(op: str, wanted: str, device: str, dtype: torch.dtype, *details: str) -> str:
    """Name of the op's first backend that can run or, if `wanted` names one, that one and no other.

    Raises:
        BackendUnavailable: none can; the message has every backend's reason.
    """
    return _choose(op, wanted, _preferred.get(), device, dtype, details)


@cache
def _choose(
    op: str, wanted: str, preferred: tuple[str, ...], device: str, dtype: torch.dtype, details: tuple[str, ...]
) -> str:
    known = {backend.name: backend for backend in OPS[op]}
    if wanted not in ("auto", *known):
        raise BackendUnavailable(f"{op}: backend must be one of auto, {', '.join(known)}, got {wanted!r}")
    tried = [wanted] if wanted != "auto" else [name for name in preferred if name in known] or [*known]
    refusals = []
    for backend in (known[name] for name in tried):
        reason = backend.why_not(device, dtype, *details)
        if reason is None:
            return backend.name
        refusals.append(f"{backend.name}: {reason}")
    raise BackendUnavailable(f"{op}: no backend can run {dtype} on {device}: " + "; ".join(refusals))


@contextmanager
def prefer(*names: str) -> Iterator[None]:
    """Inside, "auto" means the first of these backends that an op has and that can run.

    An op that has any of them never falls back to one that is not named; an op that has none is not affected. So
    ``prefer("chunked", "reference")`` keeps every compiled kernel out. What torch.compile has compiled keeps the
    backends that were chosen then.

    Raises:
        BackendUnavailable: a name that no op has.
    """
    known = {backend.name for backends in OPS.values() for backend in backends}
    for name in names:
        if name not in known:
            raise BackendUnavailable(f"prefer: backend must be one of {', '.join(sorted(known))}, got {name!r}")
    token = _preferred.set(names)
    try:
        yield
    finally:
        _preferred.reset(token)


# torch.compile evaluates the choice and never traces it. This is all that torch.compiler.assume_constant_result does,
# but that imports the whole compiler, which takes seconds.
choose._dynamo_marked_constant = True  # type: ignore[attr-defined]


def backends(device: str, dtype: torch.dtype) -> dict[str, str]:
    """The backend that "auto" takes for each op."""
    return {op: choose(op, "auto", device, dtype) for op in OPS}
