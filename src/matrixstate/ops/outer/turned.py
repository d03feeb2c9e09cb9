"""Outer products whose decays are complex or negative, by `outer_scan`: what turns the state turns queries and keys."""

import math
from typing import Literal

import torch
from torch import Tensor

from matrixstate.ops._checks import accumulation_dtype, expect_any, expect_flags, expect_floating, first_state
from matrixstate.ops.outer import check_inputs, outer_scan
from matrixstate.ops.scan import linear_scan


def phased_outer_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    phase: Tensor,
    *,
    log_decay: Tensor | None = None,
    read: Literal["post", "pre"] = "post",
    state: Tensor | None = None,
    reset: Tensor | None = None,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = diag(e^{g_t + iφ_t}) S_{t-1} + k_t v_tᵀ, read as y_t = Re(q_tᵀ S_t), with a complex S and real q, k, v.

    Sizes: B batch, T sequence, H heads, K key width, V value width.

    Args:
        q: [B, T, H, K] floating point, T >= 0. Reads the state; not scaled.
        k: [B, T, H, K], dtype of `q`.
        v: [B, T, H, V], dtype of `q`.
        phase: [B, T, H] or [B, T, H, K], φ in radians, of any size and precision.
        log_decay: [B, T, H] or [B, T, H, K], natural logarithm g of the modulus of the decay, <= 0. Default: zeros.
        read: "post", or "pre": y_t = Re(q_tᵀ S_{t-1}).
        state: [B, H, 2K, V], dtype of `q` but at least float32. S_0: the real part's K rows, then those of the
            imaginary part. Default: zeros.
        reset: [B, T] bool. True at a document's first step: the state is reset to zeros before it.
        chunk, backend: as in `outer_scan`.

    Returns:
        y: [B, T, H, V], dtype of `q`. Sums are in at least float32.
        state: [B, H, 2K, V], at least float32. S_T, to be passed to the next call.

    Raises: as `outer_scan`.

    With Φ_t the sum of the document's phases in this call, S_t = diag(e^{iΦ_t}) R_t, and R follows `outer_scan` with
    keys e^{-iΦ_t} k_t and queries e^{iΦ_t} q_t, each as K real and K imaginary parts: factors of modulus 1, so nothing
    is divided by a decay. Φ is summed in float64 where the device has that, since only its remainder by 2π counts.

    Cost: that of `outer_scan` with 2K keys, in at least float32.
    Source: Katsch 2023, "GateLoop", whose attention form turns queries and keys so.
    """
    op = "phased_outer_scan"
    (B, T, H, K), V = _sizes(op, q, k, v, log_decay, read, chunk)
    expect_any(op, "phase", phase, q, (B, T, H), (B, T, H, K))
    expect_flags(op, q, reset=reset)
    state = first_state(op, state, (B, H, 2 * K, V), q)
    dtype = accumulation_dtype(q.dtype)
    if T == 0:
        return q.new_zeros(B, 0, H, V), state
    phase = phase[..., None] if phase.ndim == 3 else phase
    phase = phase if phase.device.type == "mps" else phase.double()  # mps has no float64
    total = phase.cumsum(dim=1) if reset is None else _sums(phase, reset)
    key_turn, query_turn = _turn(total, dtype), _turn(total - phase if read == "pre" else total, dtype)
    if log_decay is not None and log_decay.ndim == 4:
        log_decay = torch.cat([log_decay, log_decay], dim=-1)
    y, last = outer_scan(
        _parts(q.to(dtype), query_turn),
        _parts(k.to(dtype), key_turn),
        v.to(dtype),
        log_decay=log_decay,
        read=read,
        state=state,
        reset=reset,
        chunk=chunk,
        backend=backend,
    )
    cos, sin = (x[:, -1, :, :, None] for x in key_turn)
    re, im = last.chunk(2, dim=2)
    return y.to(q.dtype), torch.cat([re * cos - im * sin, re * sin + im * cos], dim=2)


def signed_outer_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    *,
    read: Literal["post", "pre"] = "post",
    state: Tensor | None = None,
    reset: Tensor | None = None,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = diag(d_t) S_{t-1} + k_t v_tᵀ, read as y_t = q_tᵀ S_t, with decays d of any sign.

    Args:
        q, k: [B, T, H, K]. v: [B, T, H, V].
        decay: [B, T, H] or [B, T, H, K], d in [-1, 1] (not checked), of any precision. 0 stands for the smallest
            normal number, and has no gradient.
        read: "post", or "pre": y_t = q_tᵀ S_{t-1}.
        state: [B, H, K, V], S_0. Default: zeros.
        reset, chunk, backend: as in `outer_scan`.

    Returns:
        y [B, T, H, V] and the state [B, H, K, V], at least float32.

    Raises: as `outer_scan`.

    The sign of the product of all decays so far multiplies queries and keys, which is exact.
    """
    op = "signed_outer_scan"
    (B, T, H, K), V = _sizes(op, q, k, v, None, read, chunk)
    expect_any(op, "decay", decay, q, (B, T, H), (B, T, H, K))
    expect_flags(op, q, reset=reset)
    state = first_state(op, state, (B, H, K, V), q)
    if T == 0:
        return q.new_zeros(B, 0, H, V), state
    negative = (decay < 0).long()
    negatives = negative.cumsum(dim=1)
    key_sign, query_sign = _sign(negatives, q), _sign(negatives - negative if read == "pre" else negatives, q)
    size = decay.to(accumulation_dtype(q.dtype)).abs()
    log_decay = size.clamp_min(torch.finfo(size.dtype).tiny).log()
    y, last = outer_scan(
        q * query_sign,
        k * key_sign,
        v,
        log_decay=log_decay,
        read=read,
        state=state,
        reset=reset,
        chunk=chunk,
        backend=backend,
    )
    return y, last * key_sign[:, -1, :, :, None]


def _sizes(
    op: str, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, read: str, chunk: int
) -> tuple[torch.Size, int]:
    """The shape of q and V, of checked inputs."""
    expect_floating(op, "q", q, "B T H K")
    check_inputs(op, q, k, v, log_decay, None, None, None, read, chunk)
    return q.shape, v.shape[-1]


def _sums(phase: Tensor, reset: Tensor) -> Tensor:
    """The sum of the phases of every step's document, so that no gradient passes a reset."""
    return linear_scan(phase, decay=torch.ones_like(phase[0, 0]), reset=reset)[0]


def _turn(total: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine of an angle of any size."""
    angle = total.remainder(2 * math.pi).to(dtype)
    return angle.cos(), angle.sin()


def _parts(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """The real and the imaginary part of e^{-iΦ} x; of q, what reads them as Re(e^{iΦ} q R)."""
    cos, sin = turn
    return torch.cat([x * cos, -x * sin], dim=-1)


def _sign(negatives: Tensor, like: Tensor) -> Tensor:
    """The sign of a product of so many negative factors, [B, T, H, K or 1]."""
    sign = (1 - 2 * (negatives % 2)).to(like.dtype)
    return sign if sign.ndim == 4 else sign[..., None]
