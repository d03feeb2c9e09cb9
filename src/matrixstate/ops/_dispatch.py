"""The only place that knows that an op has several backends."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import torch

from matrixstate.errors import BackendUnavailable


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of one op.

    `module` has `unsupported(device, dtype) -> str | None`, a reason in words for the user.
    """

    name: str  # what a caller passes as backend=
    module: str  # imported only when first considered
    requires: str = "torch"  # importable name without which `module` cannot be imported

    def why_not(self, device: str, dtype: torch.dtype) -> str | None:
        """Why this backend cannot run such inputs; None if it can."""
        if find_spec(self.requires) is None:
            return f"{self.requires} is not installed"
        return import_module(self.module).unsupported(device, dtype)


def select(op: str, backends: tuple[Backend, ...], wanted: str, device: str, dtype: torch.dtype) -> str:
    """Name of the first backend that can run or, if `wanted` names one, that one and no other.

    Raises:
        BackendUnavailable: none can; the message has every backend's reason.
    """
    known = [backend.name for backend in backends]
    if wanted not in ("auto", *known):
        raise BackendUnavailable(f"{op}: backend must be one of auto, {', '.join(known)}, got {wanted!r}")
    refusals = []
    for backend in backends:
        if wanted not in ("auto", backend.name):
            continue
        reason = backend.why_not(device, dtype)
        if reason is None:
            return backend.name
        refusals.append(f"{backend.name}: {reason}")
    raise BackendUnavailable(f"{op}: no backend can run {dtype} on {device}: " + "; ".join(refusals))
