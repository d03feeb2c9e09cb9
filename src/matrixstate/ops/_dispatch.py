"""Dispatch: which backend runs an op. Only this module knows that an op has several."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from matrixstate.errors import BackendUnavailable

HINTS = {
    "matrixstate._native": " (`pip install` builds it where there is a C++17 compiler; see csrc/README.md)",
    "fla": " (pip install 'matrixstate[gpu]')",
    "triton": " (pip install 'matrixstate[gpu]')",
}


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of one op: a module.

    The module has

    * `unsupported(device, dtype, *details) -> str | None`: why it cannot run such inputs, a sentence for the user, or
      None if it can. Details are the options of a call on which that depends; without them it answers for the defaults.
    * a function with the op's own name, and one for every other function of the op's folder that asks for this op (a
      rule of `delta_scan`, the single step of a layer). Its signature and results are the same in every backend of the
      op; the reference documents them. It takes checked inputs, a state and T >= 1, and converts them to the dtype that
      it computes in. The step of a layer alone leaves its checks to the backend: the kernel makes them faster.
    """

    name: str  # what a caller passes as backend=
    module: str  # imported when it is first considered
    requires: str = "torch"  # importable name without which `module` cannot be imported
    auto_on: str | None = (
        None  # the one type of device where "auto" considers it; elsewhere it must be named. None: any, "": none
    )

    def why_not(self, device: str, dtype: torch.dtype, *details: str) -> str | None:
        """Why this backend cannot run such inputs; None if it can."""
        if not _is_installed(self.requires):
            return f"{self.requires} is not installed{HINTS.get(self.requires, '')}"
        return self.load().unsupported(device, dtype, *details)

    def load(self) -> ModuleType:
        """The module, imported at the first call."""
        return import_module(self.module)


@cache
def _is_installed(name: str) -> bool:
    return find_spec(name) is not None


def _cpu(folder: str) -> Backend:
    return Backend("cpu", f"matrixstate.ops.{folder}.kernel_cpu", requires="matrixstate._native")


def _triton(folder: str) -> Backend:
    """For GPUs. Under TRITON_INTERPRET=1 it runs on the CPU too, thousands of times slower, so only when named."""
    return Backend("triton", f"matrixstate.ops.{folder}.kernel_triton", requires="triton", auto_on="cuda")


def _fla(folder: str) -> Backend:
    """The kernels of flash-linear-attention, for GPUs alone."""
    return Backend("fla", f"matrixstate.ops.{folder}.kernel_fla", requires="fla", auto_on="cuda")


def _reference(folder: str) -> Backend:
    return Backend("reference", f"matrixstate.ops.{folder}.reference")


def _chunked(folder: str) -> Backend:
    return Backend("chunked", f"matrixstate.ops.{folder}.chunked")


OPS: dict[str, tuple[Backend, ...]] = {
    "attention": (Backend("sdpa", "matrixstate.ops.attn.kernel_sdpa"), _reference("attn")),
    "causal_conv": (_cpu("conv"), _triton("conv"), _reference("conv")),
    "cell_scan": (_cpu("cells"), _reference("cells")),
    "delta_scan": (_cpu("delta"), _fla("delta"), _chunked("delta"), _reference("delta")),
    "dense_lti_scan": (Backend("chunked", "matrixstate.ops.lti.dense_chunked"), _reference("lti")),
    "gru_scan": (_cpu("cells"), _triton("cells"), _reference("cells")),
    "linear": (
        Backend("onednn", "matrixstate.ops.linear_map.kernel_onednn"),
        Backend("tf32", "matrixstate.ops.linear_map.kernel_tf32", auto_on=""),  # by name alone: it is less precise
        _reference("linear_map"),
    ),
    "linear_scan": (_cpu("scan"), _triton("scan"), _chunked("scan"), _reference("scan")),
    "long_conv": (Backend("fft", "matrixstate.ops.conv.fft"), _reference("conv")),
    "lstm_scan": (_cpu("cells"), _triton("cells"), _reference("cells")),
    "lti_scan": (_chunked("lti"), _reference("lti")),
    "m2rnn_scan": (_cpu("m2rnn"), _triton("m2rnn"), _reference("m2rnn")),
    "matrix_scan": (_cpu("matrix"), _triton("matrix"), _reference("matrix")),
    "mru_scan": (_cpu("mru"), _triton("mru"), Backend("composed", "matrixstate.ops.mru.composed"), _reference("mru")),
    "normalised_scan": (_cpu("quotient"), _chunked("quotient"), _reference("quotient")),
    "outer_scan": (_cpu("outer"), _fla("outer"), _chunked("outer"), _reference("outer")),
    "rnn_scan": (_cpu("cells"), _triton("cells"), _reference("cells")),
    "scaled_matrix_scan": (_cpu("matrix"), _triton("matrix"), _reference("matrix")),
    "selective_scan": (_chunked("selective"), _reference("selective")),
    "snap_scan": (_cpu("snap"), _triton("snap"), _reference("snap")),
}
"""Every op's backends, in the order in which "auto" tries them."""


_preferred: ContextVar[tuple[str, ...]] = ContextVar("preferred backends", default=())
_loaded = SimpleNamespace()  # the functions of the backends chosen so far, as <function>_<backend>


def choose(op: str, wanted: str, device: str, dtype: torch.dtype, *details: str) -> str:
    """Name of the op's first backend that can run or, if `wanted` names one, that one and no other.

    Raises:
        BackendUnavailable: none can; the message has every backend's reason.
    """
    return _choose(op, wanted, _preferred.get(), device, dtype, details).name


def implementation(
    op: str, wanted: str, device: str, dtype: torch.dtype, *details: str, function: str = ""
) -> Callable[..., Any]:
    """The function `function` (default: named as the op) of the backend that `choose` chooses.

    Raises:
        BackendUnavailable: as `choose`.
    """
    return getattr(_loaded, _load(op, function or op, wanted, device, dtype, details))


def _load(op: str, function: str, wanted: str, device: str, dtype: torch.dtype, details: tuple[str, ...]) -> str:
    """Chooses a backend and makes its function an attribute of `_loaded`; returns the attribute's name."""
    return _load_preferred(op, function, wanted, _preferred.get(), device, dtype, details)


# torch.compile calls this while it traces and takes the result for a constant, which may be a string but no function.
# The function is then read as an attribute, which torch.compile looks up at that moment (a dict it would take as it was
# when it first met it). Setting this is all that torch.compiler.assume_constant_result does, but that imports the whole
# compiler, which takes seconds.
_load._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _load_preferred(
    op: str,
    function: str,
    wanted: str,
    preferred: tuple[str, ...],
    device: str,
    dtype: torch.dtype,
    details: tuple[str, ...],
) -> str:
    backend = _choose(op, wanted, preferred, device, dtype, details)
    name = f"{function}_{backend.name}"
    setattr(_loaded, name, getattr(backend.load(), function))
    return name


@cache
def _choose(
    op: str, wanted: str, preferred: tuple[str, ...], device: str, dtype: torch.dtype, details: tuple[str, ...]
) -> Backend:
    known = {backend.name: backend for backend in OPS[op]}
    if wanted not in ("auto", *known):
        raise BackendUnavailable(f"{op}: backend must be one of auto, {', '.join(known)}, got {wanted!r}")
    tried = [wanted] if wanted != "auto" else [name for name in preferred if name in known]
    tried = tried or [name for name, backend in known.items() if backend.auto_on in (None, device)]
    refusals = []
    for backend in (known[name] for name in tried):
        reason = backend.why_not(device, dtype, *details)
        if reason is None:
            return backend
        refusals.append(f"{backend.name}: {reason}")
    raise BackendUnavailable(f"{op}: no backend can run {dtype} on {device}: " + "; ".join(refusals))


@contextmanager
def prefer(*names: str) -> Iterator[None]:
    """A context in which "auto" means the first of these backends that an op has and that can run.

    An op that has any of them never falls back to one that is not named; an op that has none is not affected. So
    ``prefer("chunked", "reference")`` excludes every kernel. A function that torch.compile has compiled continues to
    use the backends that were chosen when it was traced.

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


def backends(device: str, dtype: torch.dtype) -> dict[str, str]:
    """The backend that "auto" takes for each op."""
    return {op: choose(op, "auto", device, dtype) for op in OPS}
