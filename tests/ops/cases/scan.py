"""Cases of the elementwise linear recurrence."""

from typing import Any

import torch
from torch import Tensor

from cases.case import B, Case, Inputs, accumulation, log_decays, near_identity, normal
from matrixstate.ops import dense_lti_scan, linear_scan, lti_scan, selective_scan

LINEAR = (
    "step",
    "log step",
    "log step, shared",
    "constant",
    "log constant, shared",
    "complex step",
    "complex constant",
    "complex log step, shared",
)


def linear(backend: str, decay: str, *sizes: int, batch: int = B) -> Case:
    """decay: one per step or constant, real, complex or as a logarithm; shared along the last axis of `sizes`.

    A case draws and returns complex numbers as pairs of real ones.
    """
    sizes = sizes or (2, 3)
    is_complex, name = "complex" in decay, "log_decay" if "log" in decay else "decay"
    pair = (2,) if is_complex else ()
    of_decay = (*sizes[:-1], 1) if "shared" in decay else sizes

    def decays(*leading: int, dtype: torch.dtype) -> Inputs:
        shape = (*leading, *of_decay)
        if name == "log_decay":
            return {name: log_decays(*shape, dtype=dtype)}
        if not is_complex:
            return {name: (2 * torch.rand(shape, dtype=torch.float64) - 1).to(dtype)}
        modulus, phase = torch.rand(shape, dtype=torch.float64), 7 * torch.rand(shape, dtype=torch.float64)
        return {name: torch.view_as_real(torch.polar(modulus, phase)).to(dtype)}

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        x = {"x": normal(batch, T, *sizes, *pair, dtype=dtype)}
        return x if "constant" in decay else x | decays(batch, T, dtype=dtype)

    def call(s: Inputs, fixed: Inputs, state: Tensor | None, **options: Any) -> tuple[Any, ...]:
        given = (s | fixed)[name]
        if not is_complex:
            return linear_scan(s["x"], state=state, **{name: given}, **options)
        given = _complex(given) if name == "decay" else given
        state = None if state is None else _complex(state)
        h, last = linear_scan(_complex(s["x"]), state=state, **{name: given}, **options)
        return torch.view_as_real(h).to(s["x"].dtype), torch.view_as_real(last)

    return Case(
        f"linear_scan, {backend}, decay {decay}, {list(sizes)}, batch {batch}",
        "linear_scan",
        sequence,
        call,
        lambda dtype: normal(batch, *sizes, *pair, dtype=accumulation(dtype)),
        (lambda dtype: decays(dtype=dtype)) if "constant" in decay else (lambda dtype: {}),
        backend=backend,
        dtype=torch.float32 if backend in ("cpu", "triton") else torch.float64,
        is_complex=is_complex,
    )


def _complex(pairs: Tensor) -> Tensor:
    """Complex numbers of pairs of real ones; there are none of two bfloat16."""
    return torch.complex(*(pairs.float() if pairs.dtype == torch.bfloat16 else pairs).unbind(dim=-1))


def selective(backend: str, D: int = 6, N: int = 3, groups: int = 2, batch: int = B) -> Case:
    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        return {
            "x": normal(batch, T, D, dtype=dtype),
            "step": -log_decays(batch, T, D, dtype=dtype),
            "B": normal(batch, T, groups, N, dtype=dtype),
            "C": normal(batch, T, groups, N, dtype=dtype),
        }

    return Case(
        f"selective_scan, {backend}, D {D}, N {N}, {groups} groups, batch {batch}",
        "selective_scan",
        sequence,
        lambda s, fixed, state, **options: selective_scan(**s, **fixed, state=state, **options),
        lambda dtype: normal(batch, D, N, dtype=accumulation(dtype)),
        lambda dtype: {"A": -normal(D, N, dtype=dtype).abs(), "skip": normal(D, dtype=dtype)},
        backend=backend,
    )


def lti(backend: str, is_complex: bool = True, D: int = 3, N: int = 2, batch: int = B) -> Case:
    def fixed(dtype: torch.dtype) -> Inputs:
        wide, parts = accumulation(dtype), ("re", "im") if is_complex else ("re",)
        drawn = {f"weight_{part}": normal(D, N, dtype=wide) for part in parts}
        return drawn | {f"decay_{part}": -normal(D, N, dtype=wide).abs() for part in parts}

    def call(s: Inputs, fixed: Inputs, state: Tensor | None, **options: Any) -> tuple[Any, ...]:
        whole = [fixed["decay_re"], fixed["weight_re"]]
        if is_complex:
            whole = [torch.complex(fixed[f"{name}_re"], fixed[f"{name}_im"]) for name in ("decay", "weight")]
            state = None if state is None else torch.view_as_complex(state)
        y, last = lti_scan(s["u"], *whole, state=state, **options)
        return y, torch.view_as_real(last) if is_complex else last

    return Case(
        f"lti_scan, {backend}, {'complex' if is_complex else 'real'}, D {D}, N {N}, batch {batch}",
        "lti_scan",
        lambda T, dtype: {"u": normal(batch, T, D, dtype=dtype)},
        call,
        lambda dtype: normal(batch, D, N, *((2,) if is_complex else ()), dtype=accumulation(dtype)),
        fixed,
        backend=backend,
        is_complex=is_complex,
    )


def dense_lti(backend: str, shared: bool, D: int = 3, N: int = 4, M: int = 2, batch: int = B) -> Case:
    def fixed(dtype: torch.dtype) -> Inputs:
        wide = accumulation(dtype)
        A = near_identity(1 if shared else D, N, N, dtype=wide) / 2
        return {"transition": A, "write": normal(len(A), N, dtype=wide), "readout": normal(D, M, N, dtype=wide)}

    return Case(
        f"dense_lti_scan, {backend}, {'shared' if shared else 'own'}, D {D}, N {N}, M {M}, batch {batch}",
        "dense_lti_scan",
        lambda T, dtype: {"u": normal(batch, T, D, dtype=dtype)},
        lambda s, fixed, state, **options: dense_lti_scan(s["u"], **fixed, state=state, **options),
        lambda dtype: normal(batch, D, N, dtype=accumulation(dtype)),
        fixed,
        backend=backend,
    )
