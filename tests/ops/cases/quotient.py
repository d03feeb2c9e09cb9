"""Cases of sums of exponentials that are kept divided by the largest one."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cases.case import B, Case, Inputs, accumulation, kept, log_decays, normal
from matrixstate.ops import MLSTMState, NormalisedState, mlstm_scan, normalised_scan

QUOTIENTS = (("none", False, False), ("step", True, False), ("constant", False, True), ("step", True, True))


class Sums(NamedTuple):
    """A state as the numbers that it stands for: its den and num times e^max, which alone have a gradient."""

    den: Tensor
    num: Tensor


def normalised(
    backend: str, decay: str = "none", shared: bool = False, bonus: bool = False, *sizes: int, batch: int = B
) -> Case:
    """decay: none, one per step or constant; scores are shared along the last axis of `sizes` or not."""
    sizes = sizes or (2, 3)
    own = (*sizes[:-1], 1) if shared else sizes

    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        drawn = {"score": normal(batch, T, *own, dtype=dtype, scale=2), "v": normal(batch, T, *sizes, dtype=dtype)}
        return drawn | ({"log_decay": log_decays(batch, T, *own, dtype=dtype)} if decay == "step" else {})

    def fixed(dtype: torch.dtype) -> Inputs:
        constant = {"log_decay": log_decays(*own, dtype=dtype)} if decay == "constant" else {}
        return constant | ({"bonus": normal(*own, dtype=dtype)} if bonus else {})

    def state(dtype: torch.dtype) -> Sums:
        wide = accumulation(dtype)
        return Sums(0.5 + kept(batch, *own, dtype=wide), normal(batch, *sizes, dtype=wide))

    def call(s: Inputs, fixed: Inputs, state: Sums | None, **options: Any) -> tuple[Any, ...]:
        if state is not None:
            nothing = torch.zeros_like(state.den).masked_fill(state.den.detach() == 0, -torch.inf)
            state = NormalisedState(nothing, *state)  # type: ignore[assignment]
        y, last = normalised_scan(**s, **fixed, state=state, **options)  # type: ignore[arg-type]
        scale = last.max.exp()
        return y, Sums(scale * last.den, scale * last.num)

    return Case(
        f"normalised_scan, {backend}, decay {decay}, shared {shared}, bonus {bonus}, {list(sizes)}, batch {batch}",
        "normalised_scan",
        sequence,
        call,
        state,
        fixed,
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def mlstm(backend: str, K: int = 3, V: int = 5, heads: int = 2, batch: int = B) -> Case:
    def sequence(T: int, dtype: torch.dtype) -> Inputs:
        drawn = {name: normal(batch, T, heads, size, dtype=dtype) for name, size in (("q", K), ("k", K), ("v", V))}
        gates = {
            "log_forget": log_decays(batch, T, heads, dtype=dtype),
            "log_input": normal(batch, T, heads, dtype=dtype),
        }
        return drawn | gates

    def call(s: Inputs, fixed: Inputs, state: Tensor | None, **options: Any) -> tuple[Any, ...]:
        if state is not None:
            is_empty = (state.detach() == 0).all(-1).all(-1)
            empty = torch.zeros_like(state[..., 0, 0]).masked_fill(is_empty, -torch.inf)
            state = MLSTMState(state, empty)  # type: ignore[assignment]
        y, last = mlstm_scan(**s, state=state, chunk=4, **options)  # type: ignore[arg-type]
        return y, last.max.exp()[..., None, None] * last.sums

    return Case(
        f"mlstm_scan, {backend}, K {K}, V {V}, {heads} heads, batch {batch}",
        "outer_scan",
        sequence,
        call,
        lambda dtype: normal(batch, heads, K, V + 1, dtype=accumulation(dtype)),
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
        caller="mlstm_scan",
    )
