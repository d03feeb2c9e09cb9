"""The recurrence of DeltaNet and its relatives: a state whose transition is diagonal plus rank one."""

import torch
from torch import Tensor

from matrixstate.errors import ShapeError
from matrixstate.ops._checks import (
    expect,
    expect_any,
    expect_flags,
    expect_floating,
    expect_optional,
    first_state,
)
from matrixstate.ops._dispatch import implementation


def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    read: Tensor,
    write: Tensor | None = None,
    log_decay: Tensor | None = None,
    micro_steps: int = 1,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = (diag(e^{g_t}) + write_t read_tᵀ) S_{t-1} + k_t v_tᵀ, read as y_t = q_tᵀ S_t.

    Sizes: B batch, T sequence, H heads, K key width, V value width, m micro-steps.

    Args:
        q: [B, T, H, K] floating point, T >= 0. Reads the state after a step's last micro-step; not scaled.
        k, read: [B, T·m, H, K], dtype of `q`. One row per micro-step.
        write: [B, T·m, H, K], dtype of `q`. Default: -k, as in every delta rule; cheaper than to pass that.
        v: [B, T·m, H, V], dtype of `q`.
        log_decay: [B, T, H] or [B, T, H, K], natural logarithm g of the decay, <= 0; acts on the first micro-step of a
            step. Default: none.
        micro_steps: m, how many rank-one updates a step makes.
        state: [B, H, K, V], dtype of `q` but at least float32. S_0. Default: zeros.
        reset: [B, T] bool. True at a document's first step: the state is reset to zeros before it.
        chunk: steps per chunk of the chunked form, >= 1; it changes the result by rounding only.
        backend: "cpu" (compiled), "fla" (flash-linear-attention, in bfloat16 on GPUs), "chunked" (products of matrices
            and a triangular system, for any device), "reference", or "auto": the first of them that can run.

    Returns:
        y: [B, T, H, V], dtype of `q`. Sums are in at least float32.
        state: [B, H, K, V], at least float32. S_T, to be passed to the next call.

    Raises:
        ShapeError: a shape, dtype or device other than the above.
        BackendUnavailable: no allowed backend can run these inputs.

    Cost: 4·B·T·m·H·K·V multiply-adds step by step, 3 without `write`. Arbitrary read and write may let the state
    grow without bound; the rules below do not.
    Source: Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule" (WY form); RWKV-7, KDA and others
    are further choices of read and write.
    """
    op = "delta_scan"
    rows = {"k": k, "read": read} | ({} if write is None else {"write": write})
    state = _check(op, q, v, rows, log_decay, micro_steps, state, reset, chunk)
    details = _details(q, v, log_decay, micro_steps, rule=False)
    run = implementation(op, backend, q.device.type, q.dtype, *details)
    if q.shape[1] == 0:
        return q.new_zeros(*q.shape[:3], v.shape[-1]), state
    return run(q, k, v, read, write, log_decay, micro_steps, state, reset, chunk)


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = (I - beta_t k_t k_tᵀ) S_{t-1} + beta_t k_t v_tᵀ: replaces the value that the state holds for a key.

    Args:
        q, k: [B, T, H, K]. Keys should have length 1.
        v: [B, T, H, V].
        beta: [B, T, H] in (0, 2), the part that is replaced; above 1 the transition has a negative eigenvalue.
        state, reset, chunk, backend: as in `delta_scan`.

    Returns:
        y [B, T, H, V] and the state [B, H, K, V].

    Source: Schlag et al. 2021, "Linear Transformers Are Secretly Fast Weight Programmers"; beta beyond 1: Grazzi et al.
    2024, "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues".
    """
    return _rules("delta_rule", q, k, v, beta, None, 1, state, reset, chunk, backend)


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    *,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """S_t = a_t (I - beta_t k_t k_tᵀ) S_{t-1} + beta_t k_t v_tᵀ with a_t = e^{log_decay_t}.

    log_decay: [B, T, H] or [B, T, H, K] (then diag(a_t) stands right of the bracket), <= 0; the rest as `delta_rule`.
    Source: Yang et al. 2024, "Gated Delta Networks"; decay per channel: Kimi Team 2025, "Kimi Linear" (KDA).
    """
    return _rules("gated_delta_rule", q, k, v, beta, log_decay, 1, state, reset, chunk, backend)


def gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    *,
    micro_steps: int,
    state: Tensor | None = None,
    reset: Tensor | None = None,
    chunk: int = 64,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """A step is a decay and then m delta rules: S <- a_t S, then m times S <- (I - b k kᵀ) S + b k vᵀ.

    Args:
        q: [B, T, H, K].
        k: [B, T·m, H, K]; v: [B, T·m, H, V]; beta: [B, T·m, H] in (0, 2).
        log_decay: [B, T, H] or [B, T, H, K], <= 0, or None.
        micro_steps: m. The product of m reflections can be any rotation of m dimensions.
        state, reset, chunk, backend: as in `delta_scan`.

    Returns:
        y [B, T, H, V] and the state [B, H, K, V].

    Source: Siems et al. 2025, "DeltaProduct".
    """
    return _rules("gated_delta_product", q, k, v, beta, log_decay, micro_steps, state, reset, chunk, backend)


def _rules(
    op: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    micro_steps: int,
    state: Tensor | None,
    reset: Tensor | None,
    chunk: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """`gated_delta_product` under the name of the rule that was called."""
    state = _check(op, q, v, {"k": k}, log_decay, micro_steps, state, reset, chunk)
    expect_any(op, "beta", beta, q, tuple(k.shape[:3]))
    details = _details(q, v, log_decay, micro_steps, rule=True)
    run = implementation("delta_scan", backend, q.device.type, q.dtype, *details, function="gated_delta_product")
    if q.shape[1] == 0:
        return q.new_zeros(*q.shape[:3], v.shape[-1]), state
    return run(q, k, v, beta, log_decay, micro_steps, state, reset, chunk)


def _details(q: Tensor, v: Tensor, log_decay: Tensor | None, micro_steps: int, *, rule: bool) -> tuple[str, ...]:
    """What a backend may lack, in the words of its `unsupported`; `rule` for a delta rule, not any read."""
    K, V = q.shape[-1], v.shape[-1]
    asked = {
        "micro-steps with a read": micro_steps > 1 and not rule,
        "micro-steps with a decay per channel": micro_steps > 1 and log_decay is not None and log_decay.ndim == 4,
        "decay per head": rule and log_decay is not None and log_decay.ndim == 3,
        "K > 256": K > 256,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "odd width": K % 2 != 0 or V % 2 != 0,
    }
    return tuple(detail for detail, is_asked in asked.items() if is_asked)


def _check(op, q, v, rows, log_decay, micro_steps, state, reset, chunk) -> Tensor:
    """Checks all inputs, `rows` being those with one key per micro-step; returns the first state."""
    expect_floating(op, "q", q, "B T H K")
    expect_floating(op, "v", v, "B T·m H V")
    (B, T, H, K), V = q.shape, v.shape[-1]
    if micro_steps < 1 or chunk < 1:
        raise ShapeError(f"{op}: micro_steps and chunk must be at least 1, got {micro_steps} and {chunk}")
    expect(op, "v", v, (B, T * micro_steps, H, V), q)
    for name, x in rows.items():
        expect(op, name, x, (B, T * micro_steps, H, K), q)
    expect_optional(op, "log_decay", log_decay, q, (B, T, H), (B, T, H, K))
    expect_flags(op, q, reset=reset)
    return first_state(op, state, (B, H, K, V), q)
