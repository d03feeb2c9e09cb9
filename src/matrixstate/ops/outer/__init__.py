"""The recurrence of linear attention and its relatives: a state of decaying outer products."""

from typing import Literal

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import (
    accumulation_dtype,
    expect,
    expect_flags,
    expect_floating,
    expect_optional,
    first_state,
)
from matrixstate.ops._dispatch import implementation


def outer_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    log_decay_v: Tensor | None = None,
    log_input: Tensor | None = None,
    bonus: Tensor | None = None,
    read: Literal["post", "pre"] = "post",
    state: Tensor | None = None,
    reset: Tensor | None = None,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = diag(e^{g_t}) S_{t-1} diag(e^{g'_t}) + e^{i_t} k_t v_tᵀ, read as y_t = q_tᵀ S_t.

    Sizes: B batch, T sequence, H heads, K key width, V value width.

    Args:
        q: [B, T, H, K] floating point, T >= 0. Reads the state; not scaled.
        k: [B, T, H, K], dtype of `q`.
        v: [B, T, H, V], dtype of `q`.
        log_decay: [B, T, H] or [B, T, H, K], natural logarithm g of the decay of the rows, <= 0. Default: no decay.
        log_decay_v: [B, T, H, V], natural logarithm g' of the decay of the columns, <= 0. Default: no decay.
        log_input: [B, T, H], natural logarithm i of the input's weight. Default: zeros, a weight of 1.
        bonus: [H, K], only with read="pre": the weight with which a step reads its own input. Default: zeros.
        read: "post", or "pre": y_t = q_tᵀ (S_{t-1} + diag(bonus) k_t v_tᵀ).
        state: [B, H, K, V], dtype of `q` but at least float32. S_0. Default: zeros.
        reset: [B, T] bool. True at a document's first step: the state is reset to zeros before it.
        chunk: steps per chunk of the chunked form, >= 1; it changes the result by rounding only.
        backend: "cpu" (compiled), "fla" (flash-linear-attention, in bfloat16 on GPUs), "chunked" (products of matrices,
            for any device), "reference", or "auto": the first of them that can run.

    Returns:
        y: [B, T, H, V], dtype of `q`. Sums are in at least float32.
        state: [B, H, K, V], at least float32. S_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: 3·B·T·H·K·V multiply-adds step by step; chunked about B·T·H·(chunk·(K+V) + 2·K·V).
    Sources: Katharopoulos et al. 2020 (no decay); Yang et al. 2023, GLA (decay per channel, chunks); Dao & Gu 2024,
    Mamba-2 (decay per head); Peng et al. 2024, RWKV-6 (read before, bonus).
    """
    op = "outer_scan"
    check_inputs(op, q, k, v, log_decay, log_decay_v, log_input, bonus, read, chunk)
    (B, T, H, K), V = q.shape, v.shape[-1]
    expect_flags(op, q, reset=reset)
    state = first_state(op, state, (B, H, K, V), q)
    details = _details(q, v, log_decay, log_decay_v, log_input, bonus, read)
    run = implementation(op, backend, q.device.type, q.dtype, *details)
    if T == 0:
        return q.new_zeros(B, 0, H, V), state
    return run(q, k, v, log_decay, log_decay_v, log_input, bonus, read, state, reset, chunk)


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`outer_scan` divided by its weights: y_t = q_tᵀ S_t / q_tᵀ z_t with z_t the same sum of keys alone.

    Args:
        q, k: [B, T, H, K], features whose products are positive, such as elu + 1.
        v: [B, T, H, V].
        state: [B, H, K, V + 1]: S with z as its last column. Default: zeros.
        log_decay, reset, chunk, backend: as in `outer_scan`.

    Returns:
        y: [B, T, H, V], dtype of `q`. Zeros where the weights sum to zero.
        state: [B, H, K, V + 1], to be passed to the next call.

    Raises: as `outer_scan`.

    The sum of weights is carried as one more column of values, all of them 1: exact on every backend.
    Source: Katharopoulos et al. 2020, "Transformers are RNNs", eq. 18-20.
    """
    op = "linear_attention"
    check_inputs(op, q, k, v, log_decay, None, None, None, "post", chunk)
    dtype = accumulation_dtype(q.dtype)
    if state is not None:
        expect(op, "state", state, (*q.shape[::2], q.shape[3], v.shape[3] + 1), q, dtype)
    ones = torch.ones(*v.shape[:-1], 1, dtype=dtype, device=v.device)
    values = torch.cat([v.to(dtype), ones], dim=-1)
    y, state = outer_scan(
        q.to(dtype), k.to(dtype), values, log_decay=log_decay, state=state, reset=reset, chunk=chunk, backend=backend
    )
    weights = y[..., -1:]
    return (y[..., :-1] / weights.masked_fill(weights == 0, 1)).to(q.dtype), state


def _details(q, v, log_decay, log_decay_v, log_input, bonus, read) -> tuple[str, ...]:
    """What a backend may lack, in the words of its `unsupported`."""
    K, V = q.shape[-1], v.shape[-1]
    asked = {
        "bonus with log_input": bonus is not None and log_input is not None,
        "decay of columns": log_decay_v is not None,
        "decay per head": log_decay is not None and log_decay.ndim == 3 and read == "post",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "odd width": K % 2 != 0 or V % 2 != 0,
    }
    return tuple(detail for detail, is_asked in asked.items() if is_asked)


def check_inputs(op, q, k, v, log_decay, log_decay_v, log_input, bonus, read, chunk) -> None:
    """Checks all inputs but the state and the resets."""
    expect_floating(op, "q", q, "B T H K")
    expect_floating(op, "v", v, "B T H V")
    (B, T, H, K), V = q.shape, v.shape[-1]
    expect(op, "k", k, (B, T, H, K), q)
    expect(op, "v", v, (B, T, H, V), q)
    expect_optional(op, "log_decay", log_decay, q, (B, T, H), (B, T, H, K))
    expect_optional(op, "log_decay_v", log_decay_v, q, (B, T, H, V))
    expect_optional(op, "log_input", log_input, q, (B, T, H))
    expect_optional(op, "bonus", bonus, q, (H, K))
    if read not in ("post", "pre"):
        raise ShapeError(f"{op}: read must be post or pre, got {read!r}")
    if bonus is not None and read != "pre":
        raise ShapeError(f'{op}: bonus must be None unless read is "pre", got {list(bonus.shape)}')
    if chunk < 1:
        raise ShapeError(f"{op}: chunk must be at least 1, got {chunk}")
