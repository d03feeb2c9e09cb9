"""Cases of products of matrices and what is made of them."""

from typing import Any

import torch
from torch import Tensor

from cases.case import B, Case, Inputs, accumulation, kept, near_identity, normal
from matrixstate.ops import ScaledState, SnapState, matrix_scan, mru_scan, scaled_matrix_scan, snap_scan
from matrixstate.ops.mru.builders import BUILDERS


def matrix(
    backend: str, D: int = 3, R: int | None = None, v: bool = False, heads: int = 2, batch: int = B, scale: float = 0.5
) -> Case:
    """R: rows of the state, default D."""
    R = R or D

    def state(dtype: torch.dtype) -> Tensor:
        wide, shape = accumulation(dtype), (batch, heads, R, D)
        return normal(*shape, dtype=wide) if v or R != D else near_identity(*shape, dtype=wide, scale=scale / D**0.5)

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        x = {"x": near_identity(batch, T, heads, D, D, dtype=dtype, scale=scale / D**0.5)}
        return x | ({"v": normal(batch, T, heads, R, D, dtype=dtype)} if v else {})

    return Case(
        f"matrix_scan, {backend}, D {D}, R {R}, {'v' if v else 'no v'}, {heads} heads, batch {batch}",
        "matrix_scan",
        sequence,
        lambda s, fixed, state, **options: matrix_scan(s["x"], s.get("v"), state, **options),
        state,
        backend=backend,
        dtype=torch.float32 if backend in ("cpu", "triton") else torch.float64,
        resets=v or R == D,
    )


def scaled(backend: str, D: int = 3, heads: int = 2, batch: int = B) -> Case:
    def state(dtype: torch.dtype) -> ScaledState:
        matrix = near_identity(batch, heads, D, D, dtype=accumulation(dtype), scale=0.5 / D**0.5)
        return ScaledState(matrix, torch.arange(batch * heads, dtype=torch.int32).view(batch, heads) * 3 - 5)

    return Case(
        f"scaled_matrix_scan, {backend}, D {D}, {heads} heads, batch {batch}",
        "scaled_matrix_scan",
        lambda T, dtype: {"x": 1.5 * near_identity(batch, T, heads, D, D, dtype=dtype, scale=0.2 / D**0.5)},
        lambda s, fixed, state, **options: scaled_matrix_scan(s["x"], state, **options),
        state,
        backend=backend,
        dtype=torch.float32 if backend in ("cpu", "triton") else torch.float64,
    )


def snap(backend: str, D: int = 3, groups: int = 1, codes: int = 5, heads: int = 2, batch: int = B) -> Case:
    """A step is padding where its first element is far from that of the identity."""
    shape = (groups, codes, heads // groups, D, D)

    def state(dtype: torch.dtype) -> SnapState:
        matrix = near_identity(batch, heads, D, D, dtype=accumulation(dtype), scale=0.5 / D**0.5)
        return SnapState(matrix, torch.arange(batch, dtype=torch.int32) % 3)

    def call(s: Inputs, fixed: Inputs, state: Any, **options: Any) -> tuple[Any, ...]:
        mask = s["x"][:, :, 0, 0, 0] > 1 - 0.5 / D**0.5
        return snap_scan(s["x"], fixed["keys"], fixed["values"], state, every=3, mask=mask, **options)

    return Case(
        f"snap_scan, {backend}, D {D}, {groups} groups, {codes} codes, {heads} heads, batch {batch}",
        "snap_scan",
        lambda T, dtype: {"x": near_identity(batch, T, heads, D, D, dtype=dtype, scale=0.5 / D**0.5)},
        call,
        state,
        lambda dtype: {
            "keys": normal(*shape, dtype=dtype, scale=1.5 / (heads // groups * D) ** 0.5),
            "values": normal(*shape, dtype=dtype),
        },
        backend=backend,
        dtype=torch.float32 if backend in ("cpu", "triton") else torch.float64,
    )


def mru(
    backend: str,
    D: int = 3,
    C: int = 4,
    builder: str = "ldu",
    decay: bool = False,
    v: bool = False,
    readout: str = "state",
    rescale: bool = False,
    heads: int = 2,
    batch: int = B,
) -> Case:
    """A step is padding where its first element is far below zero.

    Decays are at least 1/2: what a scale-free read-out hands back to one is rounding, divided by the decay.
    """
    scale = (0.3 if builder == "cayley" else 0.5) / D**0.5

    def state(dtype: torch.dtype) -> Any:
        wide, shape = accumulation(dtype), (batch, heads, D, D)
        if v or not rescale:
            return normal(*shape, dtype=wide) if v else near_identity(*shape, dtype=wide, scale=0.5 / D**0.5)
        matrix = near_identity(*shape, dtype=wide, scale=0.5 / D**0.5)
        return ScaledState(matrix, torch.arange(batch * heads, dtype=torch.int32).view(batch, heads) * 3 - 5)

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        inputs = {"elements": normal(batch, T, heads, BUILDERS[builder].elements(D), dtype=dtype, scale=scale)}
        inputs |= {"decay": (1 + kept(batch, T, heads, dtype=accumulation(dtype))) / 2} if decay else {}
        return inputs | ({"v": normal(batch, T, heads, D, D, dtype=dtype)} if v else {})

    def call(s: Inputs, fixed: Inputs, state: Any, **more: Any) -> tuple[Any, ...]:
        mask = s["elements"][:, :, 0, 0] > -scale if s["elements"].shape[-1] else None
        options: dict[str, Any] = {"builder": builder, "readout": readout, "rescale": rescale, "mask": mask, **more}
        return mru_scan(s["elements"], fixed["down"], s.get("v"), state, decay=s.get("decay"), **options)

    on = ", ".join([*(n for n, given in (("decay", decay), ("v", v), ("rescaled", rescale)) if given), readout])
    return Case(
        f"mru_scan, {backend}, {builder}, D {D}, C {C}, {on}, {heads} heads, batch {batch}",
        "mru_scan",
        sequence,
        call,
        state,
        lambda dtype: {"down": normal(heads, D, C, dtype=dtype)},
        backend=backend,
        dtype=torch.float32 if backend in ("cpu", "triton") else torch.float64,
    )
