"""Cases of the non-linear recurrences, the short convolution and attention."""

from collections import namedtuple
from typing import Any, Literal

import torch

from cases.case import B, Case, Inputs, accumulation, kept, log_decays, near_identity, normal
from matrixstate.ops import (
    CELLS,
    AttentionState,
    ForgettingState,
    LSTMState,
    attention,
    causal_conv,
    cell_scan,
    gru_scan,
    long_conv,
    lstm_scan,
    m2rnn_scan,
    rnn_scan,
)


def m2rnn(
    backend: str,
    K: int = 3,
    V: int = 5,
    heads: tuple[int, int, int, int, int] = (1, 1, 4, 4, 2),
    batch: int = B,
    grad_clip: float | None = None,
) -> Case:
    """`heads` are those of q, k, v, w and f."""
    q, k, v, w, f = heads
    H = max(heads)
    return Case(
        f"m2rnn_scan, {backend}, K {K}, V {V}, heads {heads}, batch {batch}, clip {grad_clip}",
        "m2rnn_scan",
        lambda T, dtype: {
            "q": normal(batch, T, q, K, dtype=dtype),
            "k": normal(batch, T, k, K, dtype=dtype),
            "v": normal(batch, T, v, V, dtype=dtype),
            "f": kept(batch, T, f, dtype=dtype),
        },
        lambda s, fixed, state, **options: m2rnn_scan(
            s["q"], s["k"], s["v"], fixed["w"], s["f"], state, grad_clip=grad_clip, **options
        ),
        lambda dtype: normal(batch, H, K, V, dtype=accumulation(dtype)),
        lambda dtype: {"w": near_identity(w, V, V, dtype=dtype, scale=0.7 / V**0.5)},
        backend=backend,
        dtype=torch.float32 if backend in ("cpu", "triton") else torch.float64,
    )


def conv(backend: str, C: int = 5, K: int = 4, activation: Literal["silu"] | None = None, batch: int = B) -> Case:
    return Case(
        f"causal_conv, {backend}, C {C}, K {K}, {activation}, batch {batch}",
        "causal_conv",
        lambda T, dtype: {"x": normal(batch, T, C, dtype=dtype)},
        lambda s, fixed, state, **options: causal_conv(
            s["x"], fixed["weight"], fixed["bias"], state, activation=activation, **options
        ),
        lambda dtype: normal(batch, K - 1, C, dtype=accumulation(dtype)),
        lambda dtype: {"weight": normal(C, K, dtype=dtype), "bias": normal(C, dtype=dtype)},
        backend=backend,
        dtype=torch.float32 if backend in ("cpu", "triton") else torch.float64,
    )


def long(backend: str, D: int = 5, L: int = 7, batch: int = B) -> Case:
    return Case(
        f"long_conv, {backend}, D {D}, L {L}, batch {batch}",
        "long_conv",
        lambda T, dtype: {"u": normal(batch, T, D, dtype=dtype)},
        lambda s, fixed, state, **options: long_conv(s["u"], fixed["kernel"], state, **options),
        lambda dtype: normal(batch, L - 1, D, dtype=accumulation(dtype)),
        lambda dtype: {"kernel": normal(D, L, dtype=dtype)},
        backend=backend,
    )


def cell(backend: str, kind: str, d: int = 5, heads: int = 3, batch: int = B, grad_clip: float | None = None) -> Case:
    """kind: rnn, gru, "gru, reset after" or lstm; inputs of the rnn and weights of the lstm are shared by all heads."""
    names = {"rnn": ("",), "gru": ("", "f", "r"), "lstm": ("", "i", "f", "o")}[kind.split(",")[0]]
    of_inputs, of_weights = (1 if kind == "rnn" else heads), (1 if kind == "lstm" else heads)
    op = {"rnn": rnn_scan, "gru": gru_scan, "lstm": lstm_scan}[kind.split(",")[0]]
    more: dict[str, Any] = {"reset_after": True} if "after" in kind else {}

    def state(dtype: torch.dtype) -> Any:
        drawn = [normal(batch, heads, d, dtype=accumulation(dtype)) for _ in "hc"]
        return LSTMState(*drawn) if kind == "lstm" else drawn[0]

    def fixed(dtype: torch.dtype) -> Inputs:
        weights = {"w" + n: normal(of_weights, d, d, dtype=dtype, scale=1.1 / d**0.5) for n in names}
        return weights | ({"bias": normal(d, dtype=dtype)} if "after" in kind else {})

    return Case(
        f"{kind}, {backend}, d {d}, {heads} heads, batch {batch}, clip {grad_clip}",
        op.__name__,
        lambda T, dtype: {"x" + n: normal(batch, T, of_inputs, d, dtype=dtype) for n in names},
        lambda s, fixed, state, **options: op(**s, **fixed, **more, state=state, grad_clip=grad_clip, **options),
        state,
        fixed,
        backend=backend,
        dtype=torch.float32 if backend in ("cpu", "triton") else torch.float64,
    )


def named_cell(
    backend: str, name: str, d: int = 4, heads: int = 3, batch: int = B, grad_clip: float | None = None
) -> Case:
    """A cell by its name; inputs are shared by all heads."""
    of = CELLS[name]
    kind = namedtuple("State", of.state)

    def state(dtype: torch.dtype) -> Any:
        wide = accumulation(dtype)
        drawn = {n: normal(batch, heads, d, dtype=wide) for n in of.state}
        if "n" in drawn:  # a normaliser of terms of which the largest is 1
            drawn["n"] = 1.2 + kept(batch, heads, d, dtype=wide)
        return kind(**drawn)

    def fixed(dtype: torch.dtype) -> Inputs:
        matrices = {w: normal(heads, d, d, dtype=dtype, scale=1.1 / d**0.5) for w in of.matrices}
        return matrices | {w: normal(heads, d, dtype=dtype) for w in of.vectors}

    return Case(
        f"{name}, {backend}, d {d}, {heads} heads, batch {batch}, clip {grad_clip}",
        "cell_scan",
        lambda T, dtype: {x: normal(batch, T, 1, d, dtype=dtype) for x in of.inputs},
        lambda s, fixed, state, **options: cell_scan(name, s, fixed, state, grad_clip=grad_clip, **options),
        state,
        fixed,
        backend=backend,
        dtype=torch.float32 if backend == "cpu" else torch.float64,
    )


def _attention_state(dtype: torch.dtype) -> AttentionState:
    wide = accumulation(dtype)
    return AttentionState(normal(B, 4, 1, 5, dtype=wide), normal(B, 4, 1, 3, dtype=wide), torch.tensor([4, 2]))


def attends(window: int | None, backend: str, forgets: bool = False, turns: bool = False) -> Case:
    """forgets: with log_forget and sinks. turns: with transitions of one group of channels."""

    def state(dtype: torch.dtype) -> AttentionState | ForgettingState:
        plain = _attention_state(dtype)
        return ForgettingState(*plain, log_decays(B, 4, 2, dtype=accumulation(dtype))) if forgets else plain

    def call(s: Inputs, fixed: Inputs, state: Any, **options: Any) -> tuple[Any, ...]:
        return attention(**s, **fixed, state=state, window=window, **options)  # type: ignore[call-overload]

    return Case(
        f"attention, window {window}, {backend}{', forgetting and sinks' if forgets else ''}"
        f"{', transitions' if turns else ''}",
        "attention",
        lambda T, dtype: (
            {
                "q": normal(B, T, 2, 5, dtype=dtype),
                "k": normal(B, T, 1, 5, dtype=dtype),
                "v": normal(B, T, 1, 3, dtype=dtype),
            }
            | ({"log_forget": log_decays(B, T, 2, dtype=dtype)} if forgets else {})
            | ({"transition": normal(B, T, 1, 5, 5, dtype=dtype) / 3} if turns else {})
        ),
        call,
        state,
        (lambda dtype: {"sinks": normal(2, dtype=dtype)}) if forgets else (lambda dtype: {}),
        backend=backend,
    )
