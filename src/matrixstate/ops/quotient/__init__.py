"""The quotient of two linear recurrences: a mean of the values so far, weighted by exponentials of scores."""

from typing import NamedTuple

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import accumulation_dtype, expect, expect_flags
from matrixstate.ops._dispatch import implementation


class NormalisedState(NamedTuple):
    """The sums Σ e^{..} = den·e^max and Σ e^{..} v = num·e^max of `normalised_scan`; [...] are the axes after B and T.

    Only the products count: `max` carries no gradient, and those of `den` and `num` are taken with it held fixed.
    """

    max: Tensor  # [B, ...] of the scores, the largest exponent, decayed; -inf where nothing has been summed
    den: Tensor  # [B, ...] of the scores, 0 or at least 1
    num: Tensor  # [B, ...] of the values


def normalised_scan(
    score: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    bonus: Tensor | None = None,
    state: NormalisedState | None = None,
    reset: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, NormalisedState]:
    """y_t = Σ_{i<=t} e^{s_i + g_{i+1} + ... + g_t} v_i, divided by the same sum without v: attention with given scores.

    With `bonus` u, step t reads before it decays and writes, and weights its own value by e^{u + s_t}:
    y_t = (Σ_{i<t} e^{s_i + g_{i+1} + ... + g_{t-1}} v_i + e^{u + s_t} v_t), divided by the same without v.

    Sizes: B batch, T sequence; further axes, usually heads and channels, as many as there are.

    A score that is shared along an axis of the values has size 1 there: [B, T, H, 1] is one per head for values
    [B, T, H, V], whose weights are then computed once per head.

    Args:
        score: [B, T, ...] floating point, s, T >= 0: the axes of `v`, or 1. Of any size: e^s is never formed. A step
            with a score of -inf adds nothing.
        v: [B, T, ...], dtype of `score`.
        log_decay: [B, T, ...] or, constant over time, [...], with the sizes of the scores or 1; any precision. Natural
            logarithm g of the decay of all weights before, <= 0 (which is not checked); -inf forgets. Default: none.
        bonus: [...], with the sizes of the scores or 1, any precision. Default: none, and reading after the write.
        state: the sums before the first step, at least float32. Default: empty sums.
        reset: [B, T] bool. True at a document's first step: the sums are empty before it.
        backend: "cpu" (compiled), "chunked" (all chunks at once, for any device), "reference", or "auto": the first of
            them that can run.

    Returns:
        y: [B, T, ...], dtype of `v`. Zeros where nothing has been summed. Sums are in at least float32.
        state: at least float32, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: an exponential and a division per score and two multiply-adds per value, both twice with `bonus`.
    Sources: Peng et al. 2023, RWKV (decay and bonus, one score per channel); Feng et al. 2024, "Attention as an RNN"
    (Aaren: no decay, one score per head); Milakov & Gimelshein 2018 (the running maximum).
    """
    op = "normalised_scan"
    _check(op, score, v, log_decay, bonus)
    expect_flags(op, v, reset=reset)
    state = _first(op, score, v, state)
    run = implementation(op, backend, v.device.type, v.dtype)
    if v.shape[1] == 0:
        return torch.zeros_like(v), state
    y, *last = run(score, v, log_decay, bonus, *state, reset)
    return y, NormalisedState(*last)


def _check(op: str, score: Tensor, v: Tensor, log_decay: Tensor | None, bonus: Tensor | None) -> None:
    """Checks all inputs but the state and the resets."""
    if not isinstance(v, Tensor) or v.ndim < 2 or not v.is_floating_point():
        raise ShapeError(f"{op}: v must be floating point [B, T, ...], got {_found(v)}")
    (B, T, *sizes) = v.shape
    if not _fits(score, (B, T), sizes, v) or score.dtype != v.dtype:
        wanted = f"{v.dtype} {[B, T, *sizes]}, with 1 for an axis after B and T where it is shared, on {v.device}"
        raise ShapeError(f"{op}: score must be {wanted}, got {_found(score)}")
    own = score.shape[2:]
    for name, given, leading in (("log_decay", log_decay, (B, T)), ("bonus", bonus, ())):
        if given is not None and not (_fits(given, (), own, v) or _fits(given, leading, own, v)):
            shapes = " or ".join(str([*first, *own]) for first in dict.fromkeys([(), leading]))
            wanted = f"floating point {shapes}, with 1 for an axis of the scores where it is shared, on {v.device}"
            raise ShapeError(f"{op}: {name} must be {wanted}, got {_found(given)}")


def _fits(given: Tensor, leading: tuple[int, ...], sizes: list[int] | torch.Size, like: Tensor) -> bool:
    """Whether `given` is floating point on the device of `like`, with axes `leading` and then those of `sizes` or 1."""
    if not isinstance(given, Tensor) or given.device != like.device or not given.is_floating_point():
        return False
    n, own = len(leading), given.shape[len(leading) :]
    fits = given.shape[:n] == leading and len(own) == len(sizes)
    return fits and all(a in (1, b) for a, b in zip(own, sizes, strict=True))


def _found(given: Tensor) -> str:
    return f"{given.dtype} {list(given.shape)} on {given.device}" if isinstance(given, Tensor) else repr(given)


def _first(op: str, score: Tensor, v: Tensor, state: NormalisedState | None) -> NormalisedState:
    """The given state, checked, or that of empty sums."""
    dtype = accumulation_dtype(v.dtype)
    of_score, of_v = ((x.shape[0], *x.shape[2:]) for x in (score, v))
    if state is None:
        empty = score.new_full(of_score, -torch.inf, dtype=dtype)
        return NormalisedState(empty, torch.zeros_like(empty), v.new_zeros(of_v, dtype=dtype))
    if not isinstance(state, tuple) or len(state) != 3:
        raise ShapeError(f"{op}: state must be a NormalisedState, got {type(state).__name__}")
    for name, part, shape in zip(NormalisedState._fields, state, (of_score, of_score, of_v), strict=True):
        expect(op, f"state.{name}", part, shape, v, dtype)
    return NormalisedState(state[0].detach(), *state[1:])
