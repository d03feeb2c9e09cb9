"""Cases of outer products and delta rules."""

from typing import Any, Literal

import torch
from torch import Tensor

from cases.case import B, Case, Inputs, accumulation, kept, log_decays, normal
from matrixstate.ops import delta_scan, gated_delta_product, outer_scan, phased_outer_scan, signed_outer_scan


def outer(
    backend: str,
    decay: str,
    read: Literal["post", "pre"] = "post",
    K: int = 3,
    V: int = 5,
    heads: int = 2,
    batch: int = B,
) -> Case:
    """decay: none, or one per head, per channel, or per row and per column."""
    per_row: tuple[int, ...] = () if decay == "head" else (K,)

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        inputs = {
            "q": normal(batch, T, heads, K, dtype=dtype),
            "k": normal(batch, T, heads, K, dtype=dtype),
            "v": normal(batch, T, heads, V, dtype=dtype),
        }
        if decay != "none":
            inputs["log_decay"] = log_decays(batch, T, heads, *per_row, dtype=dtype)
            inputs["log_input"] = normal(batch, T, heads, dtype=dtype, scale=0.3)
        return inputs | (
            {"log_decay_v": log_decays(batch, T, heads, V, dtype=dtype)} if decay == "row and column" else {}
        )

    return Case(
        f"outer_scan, {backend}, decay {decay}, read {read}, K {K}, V {V}, {heads} heads, batch {batch}",
        "outer_scan",
        sequence,
        lambda s, fixed, state, **options: outer_scan(**s, **fixed, read=read, state=state, chunk=4, **options),
        lambda dtype: normal(batch, heads, K, V, dtype=accumulation(dtype)),
        (lambda dtype: {"bonus": normal(heads, K, dtype=dtype)}) if read == "pre" else (lambda dtype: {}),
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def phased(backend: str, per: Literal["head", "channel"], read: Literal["post", "pre"] = "post") -> Case:
    K, V, heads = 3, 4, 1
    rows = () if per == "head" else (K,)

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        drawn = {name: normal(B, T, heads, size, dtype=dtype) for name, size in (("q", K), ("k", K), ("v", V))}
        phase = normal(B, T, heads, *rows, dtype=dtype, scale=3.0)
        return drawn | {"phase": phase, "log_decay": log_decays(B, T, heads, *rows, dtype=dtype)}

    return Case(
        f"phased_outer_scan, {backend}, phase per {per}, read {read}",
        "outer_scan",
        sequence,
        lambda s, fixed, state, **options: phased_outer_scan(**s, read=read, state=state, chunk=4, **options),
        lambda dtype: normal(B, heads, 2 * K, V, dtype=accumulation(dtype)),
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
        caller="phased_outer_scan",
    )


def signed(backend: str, per: Literal["head", "channel"], read: Literal["post", "pre"] = "post") -> Case:
    K, V, heads = 3, 4, 1
    rows = () if per == "head" else (K,)

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        drawn = {name: normal(B, T, heads, size, dtype=dtype) for name, size in (("q", K), ("k", K), ("v", V))}
        return drawn | {"decay": 1.8 * kept(B, T, heads, *rows, dtype=dtype) - 0.9}

    return Case(
        f"signed_outer_scan, {backend}, decay per {per}, read {read}",
        "outer_scan",
        sequence,
        lambda s, fixed, state, **options: signed_outer_scan(**s, read=read, state=state, chunk=4, **options),
        lambda dtype: normal(B, heads, K, V, dtype=accumulation(dtype)),
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
        caller="signed_outer_scan",
    )


def delta(
    backend: str,
    decay: str = "none",
    write: bool = True,
    micro_steps: int = 1,
    K: int = 3,
    V: int = 5,
    heads: int = 2,
    batch: int = B,
) -> Case:
    """decay: none, or one per head or per channel; micro-steps lie within a step here, so that time is axis 1."""
    per_row: tuple[int, ...] = () if decay == "head" else (K,)
    rows = ("k", "v", "read", "write") if write else ("k", "v", "read")

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        scale = 0.7 / K**0.5
        inputs = {"q": normal(batch, T, heads, K, dtype=dtype)}
        inputs["k"] = normal(batch, T, micro_steps, heads, K, dtype=dtype, scale=1 if write else scale)
        inputs["v"] = normal(batch, T, micro_steps, heads, V, dtype=dtype)
        for name in rows[2:]:
            inputs[name] = normal(batch, T, micro_steps, heads, K, dtype=dtype, scale=scale)
        return inputs | ({"log_decay": log_decays(batch, T, heads, *per_row, dtype=dtype)} if decay != "none" else {})

    def call(s: Inputs, fixed: Inputs, state: Tensor | None, **options: Any) -> tuple[Any, ...]:
        flat = {name: value.flatten(1, 2) if name in rows else value for name, value in s.items()}
        return delta_scan(**flat, micro_steps=micro_steps, state=state, chunk=4, **options)

    return Case(
        f"delta_scan, {backend}, decay {decay}, write {write}, {micro_steps} micro-steps, K {K}, V {V}, {heads} heads, "
        f"batch {batch}",
        "delta_scan",
        sequence,
        call,
        lambda dtype: normal(batch, heads, K, V, dtype=accumulation(dtype)),
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def rule(
    backend: str, decay: str = "none", micro_steps: int = 1, K: int = 3, V: int = 5, heads: int = 2, batch: int = B
) -> Case:
    """The delta rule, which the kernel of delta_scan knows as such; decay and micro-steps as in `delta`."""
    per_row: tuple[int, ...] = () if decay == "head" else (K,)

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        inputs = {"q": normal(batch, T, heads, K, dtype=dtype)}
        inputs["k"] = normal(batch, T, micro_steps, heads, K, dtype=dtype, scale=0.7 / K**0.5)
        inputs["v"] = normal(batch, T, micro_steps, heads, V, dtype=dtype)
        inputs["beta"] = 2 * kept(batch, T, micro_steps, heads, dtype=dtype)
        return inputs | ({"log_decay": log_decays(batch, T, heads, *per_row, dtype=dtype)} if decay != "none" else {})

    def call(s: Inputs, fixed: Inputs, state: Tensor | None, **options: Any) -> tuple[Any, ...]:
        q, k, v, beta = s["q"], *(s[name].flatten(1, 2) for name in ("k", "v", "beta"))
        options |= {"micro_steps": micro_steps, "state": state, "chunk": 4}
        return gated_delta_product(q, k, v, beta, s.get("log_decay"), **options)

    return Case(
        f"delta rule, {backend}, decay {decay}, {micro_steps} micro-steps, K {K}, V {V}, {heads} heads, batch {batch}",
        "delta_scan",
        sequence,
        call,
        lambda dtype: normal(batch, heads, K, V, dtype=accumulation(dtype)),
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
        caller="gated_delta_product",
    )
