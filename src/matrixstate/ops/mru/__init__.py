"""The matrix recurrent unit's core: from the free elements of its matrices to its read-out."""

from typing import Literal

from torch import Tensor

from matrixstate.ops._checks import expect_flags
from matrixstate.ops._dispatch import implementation
from matrixstate.ops.matrix import ScaledState
from matrixstate.ops.mru.checks import check_inputs, first_state


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
        v: [B, T, H, D, D], dtype of `elements`. Added at every step. Default: nothing is added. Not with `rescale`.
        state: what the last call returned: a tensor [B, H, D, D], dtype of `elements` but at least float32, or with
            `rescale` a `ScaledState`. Default: zeros where `v` is given, else the identity.
        builder: how elements become X_t, a name of `BUILDERS`.
        decay: [B, T, H] floating point. f_t, the decay of the state. Default: ones.
        rescale: carry H as m·2^e, which never overflows.
        readout: what W_down multiplies: "state" H, "normalised" H sqrt(D)/|H|, or "bounded", the latter times
            exp(bound·tanh(log(|H|/sqrt(D))/bound)).
        bound: positive, for the bounded read-out.
        mask: [B, T] bool, True at real steps. A padded step leaves the state unchanged, bit for bit; its y is
            undefined. Default: all real.
        reset: [B, T] bool. True at a document's first step: the state is reset to the default before it.
        method: the order of the products, as in `matrix_scan`. The fused kernels have "sequential", that for GPUs also
            "chunked"; with "auto" it divides long sequences of few chains (B·H).
        backend: "auto" takes the first that can run: "cpu" is one fused kernel for the builders reshape_identity, ldu
            and cayley, "triton" the same for GPUs, of D up to 64; "composed" computes part by part with the fastest
            `matrix_scan`. A name takes that one or raises.

    Returns:
        y: [B, T, H, D, C], dtype of `elements`. Sums are in at least float32.
        state: of H_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above, or an unknown option.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: B·T·H·D²·(D + C) multiply-adds and the construction of X_t (D³ for ldu and cayley). The fused kernels save the
    inputs and every 16th state for the backward pass, the other backends every X_t and H_t.
    Source: M. Levi, mru-lm. Decay, v and read-outs are derived in README.md.
    """
    op = "mru_scan"
    B, T, H, D = check_inputs(op, elements, down, v, decay, builder, rescale, readout, bound, method)
    expect_flags(op, elements, reset=reset, mask=mask)
    state = first_state(op, elements, state, (B, H, D, D), rescale, written=v is not None)
    details = builder, method, *(("D > 64",) if D > 64 else ())
    run = implementation(op, backend, elements.device.type, elements.dtype, *details)
    if T == 0:
        return elements.new_zeros(B, 0, H, D, down.shape[-1]), state
    return run(elements, down, v, decay, state, reset, mask, builder, readout, bound, method)
