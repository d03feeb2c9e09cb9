"""The matrix recurrent unit's core: from the free elements of its matrices to its read-out."""

from typing import Literal

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import accumulation_dtype, expect, expect_floating, expect_reset
from matrixstate.ops._dispatch import choose
from matrixstate.ops.matrix import METHODS, ScaledState
from matrixstate.ops.mru import composed, reference
from matrixstate.ops.mru.builders import BUILDERS

READOUTS = ("state", "normalised", "bounded")


def mru_scan(
    elements: Tensor,
    down: Tensor,
    v: Tensor | None = None,
    state: Tensor | ScaledState | None = None,
    *,
    builder: str = "ldu",
    decay: Tensor | None = None,
    rescale: bool = False,
    readout: Literal["state", "normalised", "bounded"] = "state",
    bound: float = 2.0,
    mask: Tensor | None = None,
    reset: Tensor | None = None,
    method: str = "auto",
    backend: str = "auto",
) -> tuple[Tensor, Tensor | ScaledState]:
    """H_t = f_t H_{t-1} X_t (+ v_t) with X_t made of free elements, and y_t = read(H_t) W_down.

    Sizes: B batch, T sequence, H heads, D order of the state, C channels of each of its rows after W_down.

    Args:
        elements: [B, T, H, n] floating point, T >= 0; n is that of `BUILDERS[builder]` for order D.
        down: [H, D, C] floating point, C >= 1. W_down.
        v: [B, T, H, D, D], dtype of `elements`. What every step adds. Default: nothing. Not with `rescale`.
        state: what the last call returned: a tensor [B, H, D, D], dtype of `elements` but at least float32, or with
            `rescale` a `ScaledState`. Default: zeros where `v` is given, else the identity.
        builder: how elements become X_t, a name of `BUILDERS`.
        decay: [B, T, H] floating point. f_t, the factor of the state before. Default: 1.
        rescale: carry H as m·2^e, which never overflows.
        readout: what W_down sees: "state" H, "normalised" H sqrt(D)/|H|, or "bounded", the latter times
            exp(bound·tanh(log(|H|/sqrt(D))/bound)).
        bound: positive, for the bounded read-out.
        mask: [B, T] bool. False is padding, a step that leaves the state as it is. Its own y means nothing.
        reset: [B, T] bool. True starts a document: that step goes on from the default state.
        method: the order of the products, as in `matrix_scan`. The fused kernel knows the sequential one only.
        backend: "auto" takes the first that can run: "cpu" is fused and knows the builders reshape_identity, ldu and
            cayley; "composed" goes part by part with the fastest `matrix_scan`. A name takes that one or fails.

    Returns:
        y: [B, T, H, D, C], dtype of `elements`. Sums are in at least float32.
        state: of H_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or an unknown option.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·T·H·D²·(D + C) multiply-adds and the making of X_t (D³ for ldu and cayley). Backward of the fused kernel
    keeps the inputs and every 16th state; the other backends keep every X_t and H_t.
    Source: M. Levi, mru-lm; decay, write and read-outs as in our README.
    """
    op = "mru_scan"
    B, T, H, D, dtype = _check(op, elements, down, v, decay, builder, rescale, readout, bound, method)
    expect_reset(op, reset, elements)
    expect_reset(op, mask, elements, "mask")
    state = _first_state(op, elements, state, (B, H, D, D), dtype, rescale, written=v is not None)
    chosen = choose(op, backend, elements.device.type, elements.dtype, builder, method)
    if T == 0:
        return elements.new_zeros(B, 0, H, D, down.shape[-1]), state
    if chosen != "cpu":
        run = reference.mru_scan if chosen == "reference" else composed.mru_scan
        options = {"builder": builder, "rescale": rescale, "readout": readout, "bound": bound, "method": method}
        return run(elements, down, v, decay, state, reset, mask, **options)
    matrix, exponent = state if isinstance(state, tuple) else (state, None)
    decay = None if decay is None else decay.to(dtype)
    inputs = elements, v, decay, down.to(dtype), matrix
    keep = torch.is_grad_enabled() and any(a is not None and a.requires_grad for a in inputs)
    y, last, last_exponent, *_ = torch.ops.matrixstate.mru_scan_cpu(
        *inputs, exponent, reset, mask, builder, readout, bound, keep
    )
    return y, ScaledState(last, last_exponent) if rescale else last


def _check(
    op: str,
    elements: Tensor,
    down: Tensor,
    v: Tensor | None,
    decay: Tensor | None,
    builder: str,
    rescale: bool,
    readout: str,
    bound: float,
    method: str,
) -> tuple[int, int, int, int, torch.dtype]:
    """Checks everything but the state and the flags; returns B, T, H, D and the state's dtype."""
    for name, value, known in (
        ("builder", builder, BUILDERS),
        ("readout", readout, READOUTS),
        ("method", method, METHODS),
    ):
        if value not in known:
            raise ShapeError(f"{op}: {name} must be one of {', '.join(known)}, got {value!r}")
    expect_floating(op, "elements", elements, "B T H n")
    expect_floating(op, "down", down, "H D C")
    B, T, H, _ = elements.shape
    D, C = down.shape[1:]
    if D == 0 or C == 0:
        raise ShapeError(f"{op}: down must be [H, D, C] with D and C at least 1, got {list(down.shape)}")
    expect(op, "down", down, (H, D, C), elements, down.dtype)
    expect(op, "elements", elements, (B, T, H, BUILDERS[builder].elements(D)), elements)
    if v is not None:
        expect(op, "v", v, (B, T, H, D, D), elements)
    if decay is not None:
        expect_floating(op, "decay", decay, "B T H")
        expect(op, "decay", decay, (B, T, H), elements, decay.dtype)
    if rescale and v is not None:
        raise ShapeError(f"{op}: rescale must be False where v is given, got True")
    if not bound > 0:
        raise ShapeError(f"{op}: bound must be positive, got {bound}")
    return B, T, H, D, accumulation_dtype(elements.dtype)


def _first_state(
    op: str,
    like: Tensor,
    state: Tensor | ScaledState | None,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    rescale: bool,
    written: bool,
) -> Tensor | ScaledState:
    """The state, checked, or the default one."""
    if state is None:
        identity = torch.eye(shape[-1], dtype=dtype, device=like.device).expand(shape)
        matrix = like.new_zeros(shape, dtype=dtype) if written else identity
        return ScaledState(matrix, like.new_zeros(shape[:2], dtype=torch.int32)) if rescale else matrix
    if not rescale:
        if not isinstance(state, Tensor):
            raise ShapeError(f"{op}: state must be a tensor where rescale is False, got {type(state).__name__}")
        expect(op, "state", state, shape, like, dtype)
        return state
    if not isinstance(state, tuple) or len(state) != 2:
        raise ShapeError(f"{op}: state must be a ScaledState where rescale is True, got {type(state).__name__}")
    expect(op, "state.matrix", state[0], shape, like, dtype)
    expect(op, "state.exponent", state[1], shape[:2], like, torch.int32)
    return ScaledState(*state)
