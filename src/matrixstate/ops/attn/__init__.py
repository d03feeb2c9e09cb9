"""Causal softmax attention with a cache, windows, forgetting, sinks, padding and packed documents."""

import math
from typing import NamedTuple, overload

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._align import along, right_align
from matrixstate.ops._checks import (
    accumulation_dtype,
    expect,
    expect_flags,
    expect_floating,
    expect_optional,
    full_precision,
)
from matrixstate.ops._dispatch import implementation
from matrixstate.ops.attn.bias import since, with_sinks
from matrixstate.ops.attn.transition import scores_through


class AttentionState(NamedTuple):
    """Keys and values of earlier steps, the latest at the end. It grows with the sequence, up to window - 1 steps."""

    k: Tensor  # [B, S, G, K] at least float32
    v: Tensor  # [B, S, G, V] at least float32
    length: Tensor  # [B] int64: how many of the last entries are valid


class ForgettingState(NamedTuple):
    """An `AttentionState` with the forget gates of its steps."""

    k: Tensor
    v: Tensor
    length: Tensor
    log_forget: Tensor  # [B, S, H] at least float32


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: AttentionState | None = None,
    *,
    window: int | None = None,
    scale: float | None = None,
    log_forget: None = None,
    sinks: Tensor | None = None,
    transition: Tensor | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, AttentionState]: ...


@overload
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: ForgettingState | None = None,
    *,
    window: int | None = None,
    scale: float | None = None,
    log_forget: Tensor,
    sinks: Tensor | None = None,
    transition: Tensor | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, ForgettingState]: ...


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: AttentionState | ForgettingState | None = None,
    *,
    window: int | None = None,
    scale: float | None = None,
    log_forget: Tensor | None = None,
    sinks: Tensor | None = None,
    transition: Tensor | None = None,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, AttentionState | ForgettingState]:
    """y_t = sum_j softmax_j(scale · q_t·k_j) v_j over the steps j <= t of the same document.

    With `log_forget` g the scores are scale · q_t·k_j + g_{j+1} + ... + g_t. With `sinks` s the sum of the weights'
    exponentials has one more term, e^{s_h}, whose value is zero. With `transition` X the key k_j passes through the
    matrices of the steps after it: scores are scale · q_t·((X_{j+1} ... X_t)ᵀ k_j).

    Sizes: B batch, T sequence, H query heads, G key heads (G divides H; query head n uses n // (H/G)), K key width,
    V value width, S cached steps.

    Args:
        q: [B, T, H, K] floating point, T >= 0.
        k: [B, T, G, K], dtype of `q`.
        v: [B, T, G, V], dtype of `q`.
        state: what the last call returned. Default: no earlier steps.
        window: how many steps a query sees, itself included, >= 1. Default: all.
        scale: default 1/sqrt(K).
        log_forget: [B, T, H], natural logarithm of the factor by which step t multiplies the weights of all earlier
            steps, <= 0 and finite; floating point. Default: none.
        sinks: [H] floating point, logits. Default: none.
        transition: [B, T, M, D, D] floating point, M · D = G · K: step t multiplies the M groups of D channels of all
            earlier keys, in order. Where X is orthogonal, R_t q_t and R_j k_j with R_t = R_{t-1} X_t (`matrix_scan`)
            give the same at less cost. Default: the identity.
        mask: [B, T] bool, True at real steps. A padded step is left out: no step attends to it, and its y is undefined.
            Default: all real.
        reset: [B, T] bool. True at a document's first step: no step attends to an earlier document. Ignored at padded
            steps.
        backend: "sdpa" (PyTorch's fused form, no double backward on a CPU), "reference", or "auto": the first.

    Returns:
        y: [B, T, H, V], dtype of `q`.
        state: `AttentionState`, with `log_forget` a `ForgettingState`, of S + T steps, or the last window - 1. Its keys
            have passed through the matrices of all later steps.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·H·T·(S+T)·(K+V) multiply-adds; forgetting, sinks or transitions take B·H·T·(S+T)
    numbers more; transitions G·K·D·(T/16)·(S+T) multiply-adds more per row.
    Sources: Vaswani et al. 2017; forgetting: Lin et al. 2025, "Forgetting Transformer", eq. 4; sinks as a learned logit
    per head: OpenAI 2025, gpt-oss, with s = 0 Miller 2023, "Attention is off by one"; transitions: M. Levi, mru-lm.
    """
    op = "attention"
    dtype = _check(op, q, k, v, window, mask, reset)
    expect_optional(op, "log_forget", log_forget, q, q.shape[:3])
    expect_optional(op, "sinks", sinks, q, q.shape[2:3])
    B, T, H, K = q.shape
    G, V = v.shape[2:]
    if transition is not None:
        _check_transition(op, q, k, transition)
    if state is None:
        state = _empty(q, G, V, dtype, log_forget is not None)
    S = state.k.shape[1]
    expect(op, "state.k", state.k, (B, S, G, K), q, dtype)
    expect(op, "state.v", state.v, (B, S, G, V), q, dtype)
    expect(op, "state.length", state.length, (B,), q, torch.int64)
    if isinstance(state, ForgettingState) != (log_forget is not None):
        wanted = "an AttentionState" if log_forget is None else "a ForgettingState"
        raise ShapeError(f"{op}: state must be {wanted}, got {type(state).__name__}")
    if isinstance(state, ForgettingState):
        expect(op, "state.log_forget", state.log_forget, (B, S, H), q, dtype)
    run = implementation(op, backend, q.device.type, q.dtype)
    if T == 0:
        return q.new_zeros(B, 0, H, V), state
    if mask is not None:  # a weight of zero would not hide a NaN at a padded step, nor in the gradients
        q, k, v = (a.masked_fill(~mask[..., None, None], 0) for a in (q, k, v))
    keys, values = torch.cat([state.k, k.to(dtype)], dim=1), torch.cat([state.v, v.to(dtype)], dim=1)
    forgotten = None
    if log_forget is not None and isinstance(state, ForgettingState):
        log_forget = log_forget if mask is None else log_forget.masked_fill(~mask[..., None], 0)
        forgotten = torch.cat([state.log_forget, log_forget.to(dtype)], dim=1)
    allowed = bias = None
    plain = window is None and mask is None and reset is None and forgotten is None and sinks is None
    plain = plain and transition is None
    if not plain or (S and not (T == 1 and _is_full(S, state.length))):
        allowed = _allowed(S, T, state.length, window, mask, reset)
    scale = 1 / math.sqrt(K) if scale is None else scale
    if transition is not None:
        with full_precision(q):
            bias, keys = scores_through(scale * q.to(dtype), keys, transition.to(dtype), mask)
    last = _remember(keys, values, forgotten, S, state.length, window, mask, reset)
    if forgotten is not None and allowed is not None:
        gates = since(forgotten, allowed)
        bias = gates if bias is None else bias + gates
    if transition is not None:  # the scores are in the bias
        q, keys = q.new_zeros(B, T, H, 1), keys.new_zeros(B, S + T, G, 1)
    if sinks is not None and allowed is not None:
        keys, values, allowed, bias = with_sinks(keys, values, allowed, bias, sinks.to(dtype))
    y = run(q, keys, values, allowed, bias, scale)
    return y, last


def _empty(q: Tensor, G: int, V: int, dtype: torch.dtype, forgets: bool) -> AttentionState | ForgettingState:
    """The state of no earlier steps."""
    B, _, H, K = q.shape
    k, v = q.new_zeros(B, 0, G, K, dtype=dtype), q.new_zeros(B, 0, G, V, dtype=dtype)
    length = torch.zeros(B, dtype=torch.int64, device=q.device)
    return ForgettingState(k, v, length, q.new_zeros(B, 0, H, dtype=dtype)) if forgets else AttentionState(k, v, length)


def _check(op, q, k, v, window, mask, reset) -> torch.dtype:
    expect_floating(op, "q", q, "B T H K")
    expect_floating(op, "k", k, "B T G K")
    expect_floating(op, "v", v, "B T G V")
    B, T, H, K = q.shape
    G = k.shape[2]
    expect(op, "k", k, (B, T, G, K), q)
    expect(op, "v", v, (B, T, G, v.shape[3]), q)
    if G == 0 or H % G:
        raise ShapeError(f"{op}: the heads of k must divide those of q, got q {H}, k {G}")
    if window is not None and window < 1:
        raise ShapeError(f"{op}: window must be at least 1 or None, got {window}")
    expect_flags(op, q, mask=mask, reset=reset)
    return accumulation_dtype(q.dtype)


def _check_transition(op: str, q: Tensor, k: Tensor, transition: Tensor) -> None:
    expect_floating(op, "transition", transition, "B T M D D")
    (B, T, G, K), D = k.shape, transition.shape[-1]
    groups = G * K // D if D and K % D == 0 else -1  # -1: no number of groups is right
    if groups < 0:
        raise ShapeError(f"{op}: the order of transition must divide the key width {K}, got {D}")
    expect(op, "transition", transition, (B, T, groups, D, D), q, transition.dtype)


def _is_full(S: int, length: Tensor) -> bool:
    """Whether every row can see all S cached steps, so that a single new step needs no mask."""
    if torch.compiler.is_compiling() or length.device.type != "cpu":
        return False  # reading the lengths would synchronise with the device, or break the graph
    return all(n == S for n in length.tolist())


def _documents(reset: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T]: 0 before the first reset, then one more at every reset."""
    return (reset if mask is None else reset & mask).long().cumsum(dim=1)


def _allowed(S: int, T: int, length: Tensor, window: int | None, mask: Tensor | None, reset: Tensor | None) -> Tensor:
    """[B, 1, T, S+T] bool: which of the cached and new steps each new step sees. Every step sees itself."""
    step = torch.arange(S + T, device=length.device)
    allowed = (step[None, :] <= step[S:, None])[None]
    allowed = allowed & (step >= S - length[:, None])[:, None]
    if mask is not None:
        allowed = allowed & torch.nn.functional.pad(mask, (S, 0), value=True)[:, None]
    if reset is not None:
        document = torch.nn.functional.pad(_documents(reset, mask), (S, 0))
        allowed = allowed & (document[:, None] == document[:, S:, None])
    if window is not None:
        count = step[None] if mask is None else torch.nn.functional.pad(mask, (S, 0), value=True).long().cumsum(dim=1)
        allowed = allowed & (count[:, S:, None] - count[:, None] < window)
    return (allowed | (step[None, :] == step[S:, None])[None])[:, None]


def _remember(
    keys: Tensor,
    values: Tensor,
    forgotten: Tensor | None,
    S: int,
    length: Tensor,
    window: int | None,
    mask: Tensor | None,
    reset: Tensor | None,
) -> AttentionState | ForgettingState:
    """The state after the call: the valid steps moved to the end, those before the last reset no longer counted."""
    steps = keys.shape[1]
    if mask is None and reset is None and window is None:
        return _state(keys, values, length + (steps - S), forgotten)
    valid = torch.arange(steps, device=keys.device) >= S - length[:, None]
    if mask is not None:
        valid = valid & torch.nn.functional.pad(mask, (S, 0), value=True)
    if reset is not None:
        document = torch.nn.functional.pad(_documents(reset, mask), (S, 0))
        valid = valid & (document == document[:, -1:])
    cached = [keys, values] if forgotten is None else [keys, values, forgotten]
    if mask is not None:
        order = right_align(valid)
        cached = [along(x, order) for x in cached]
    length = valid.sum(dim=1)
    if window is not None:
        kept = min(steps, window - 1)
        # copies, since views would keep the whole sequence alive
        cached = [x[:, steps - kept :].clone() for x in cached]
        length = length.clamp_max(kept)
    keys, values, *gates = (x.contiguous() for x in cached)
    return _state(keys, values, length, *gates)


def _state(
    keys: Tensor, values: Tensor, length: Tensor, forgotten: Tensor | None = None
) -> AttentionState | ForgettingState:
    if forgotten is None:
        return AttentionState(keys, values, length)
    return ForgettingState(keys, values, length, forgotten)
