"""The diagonal-plus-rank-one recurrence in chunked form: a triangular system within a chunk (the WY form).

A number that is not finite spreads as in ops/outer/chunked.py.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from matrixstate.ops._checks import widened
from matrixstate.ops._chunks import decay_sums, decayed_products, from_chunks, seen, to_chunks
from matrixstate.ops._dynamic import is_dynamic, over_chunks
from matrixstate.ops._plain import unsupported
from matrixstate.ops.delta.rules import as_key_and_read

__all__ = ["delta_scan", "gated_delta_product", "unsupported"]


def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    read: Tensor,
    write: Tensor | None,
    log_decay: Tensor | None,
    micro_steps: int,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    return _scan(q, k, v, read, -k if write is None else write, log_decay, micro_steps, state, reset, chunk)


@widened
def gated_delta_product(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    micro_steps: int,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """As the reference."""
    k, read = as_key_and_read(k, beta, log_decay, micro_steps)
    return delta_scan(q, k, v, read, None, log_decay, micro_steps, state, reset, chunk)


@widened
def _scan(q, k, v, read, write, log_decay, micro_steps, state, reset, chunk) -> tuple[Tensor, Tensor]:
    """`delta_scan` with a write.

    Written out over rows (micro-steps) j of a chunk with start S: with u_j = read_jᵀ S_{j-1} what a row reads,

        S_t = e^{c_t} S + sum over j <= t of e^{c_t - c_j} (write_j u_jᵀ + k_j v_jᵀ)

    so the u of a chunk solve a triangular system: u = (I - A)^{-1} (R S + B v), where A and B are the decayed products
    of read with write and with k. README.md, "By chunks", derives it.
    """
    T = q.shape[1]
    if is_dynamic(T):
        return _over_chunks(q, k, v, read, write, log_decay, micro_steps, state, reset, chunk)
    rows = min(chunk, T) * micro_steps
    if log_decay is not None and log_decay.ndim == 3:
        log_decay = log_decay[..., None]
    log_decay, reset = _per_row(log_decay, reset, micro_steps)
    q = _at_last_micro_step(q, micro_steps)
    q, k, v, read, write = (to_chunks(x, rows) for x in (q, k, v, read, write))
    # [B,H,n,rows,...]: logarithms of decays summed up to a row and to the one before; the number of resets up to it
    upto = None if log_decay is None else decay_sums(log_decay, rows)
    documents = None if reset is None else to_chunks(reset[..., None].long(), rows).cumsum(dim=-1)
    before = None if upto is None else pad(upto[..., :-1, :], (0, 0, 1, 0))
    scalar = upto is not None and upto.shape[-1] == 1
    at, at_before = (x.squeeze(-1) if x is not None and scalar else x for x in (upto, before))
    of_state, of_keys = _solve(k, v, read, write, before, at_before, at, documents)
    mask = seen(documents, rows, False, q.device)
    q_writes, q_keys = (decayed_products(q, x, at, at, mask) for x in (write, k))
    q_into, writes, keys, decay = _between(q, k, write, upto, documents)
    fixed = q_keys @ v + q_writes @ of_keys  # the part of y that does not depend on the state before the chunk
    added = keys.mT @ v + writes.mT @ of_keys  # likewise of the state after it
    y, S = [], state
    for c in range(q.shape[2]):
        y.append(q_into[:, :, c] @ S + q_writes[:, :, c] @ (of_state[:, :, c] @ S))
        S = decay[:, :, c, :, None] * S + writes[:, :, c].mT @ (of_state[:, :, c] @ S) + added[:, :, c]
    whole = from_chunks(torch.stack(y, dim=2) + fixed, T * micro_steps)
    return whole[:, micro_steps - 1 :: micro_steps], S


def _over_chunks(q, k, v, read, write, log_decay, micro_steps, state, reset, chunk) -> tuple[Tensor, Tensor]:
    """`_scan` of a sequence of dynamic length; the rows of a step are an axis of their own meanwhile."""
    rows = [x.unflatten(1, (-1, micro_steps)) for x in (k, v, read, write)]

    def run(q, log_decay, reset, k, v, read, write, state):
        k, v, read, write = (x.flatten(1, 2) for x in (k, v, read, write))
        return _scan(q, k, v, read, write, log_decay, micro_steps, state, reset, chunk)

    return over_chunks(run, (q, log_decay, reset, *rows), state, chunk)


def _solve(
    k: Tensor,
    v: Tensor,
    read: Tensor,
    write: Tensor,
    before: Tensor | None,
    at_before: Tensor | None,
    at: Tensor | None,
    documents: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What rows read as an affine function of the state S before the chunk: u = of_state S + of_keys.

    `before` and `at_before` are the sums of decays up to the row before, with and without an axis for channels.
    """
    rows = k.shape[-2]
    strictly = seen(documents, rows, True, k.device)
    system = torch.eye(rows, dtype=k.dtype, device=k.device) - decayed_products(read, write, at_before, at, strictly)
    from_keys = decayed_products(read, k, at_before, at, strictly) @ v
    into = read if before is None else read * before.exp()
    into = into if documents is None else into.masked_fill((documents > 0)[..., None], 0)
    both = torch.cat([into, from_keys], dim=-1)
    solved = torch.linalg.solve_triangular(system, both, upper=False, unitriangular=True)
    of_state, of_keys = solved.split([k.shape[-1], v.shape[-1]], dim=-1)
    return of_state, of_keys


def _between(
    q: Tensor, k: Tensor, write: Tensor, upto: Tensor | None, documents: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Between chunks: queries of the state before the chunk, writes and keys as they reach its end, and the state's
    decay over the chunk.
    """
    ends = None if upto is None else (upto[..., -1:, :] - upto).exp()
    decay = torch.ones_like(q[..., 0, :1]) if upto is None else upto[..., -1, :].exp()
    q_into = q if upto is None else q * upto.exp()
    writes, keys = (x if ends is None else x * ends for x in (write, k))
    if documents is not None:
        decay = decay.masked_fill((documents[..., -1] > 0)[..., None], 0)
        q_into = q_into.masked_fill((documents > 0)[..., None], 0)
        past = (documents < documents[..., -1:])[..., None]
        writes, keys = writes.masked_fill(past, 0), keys.masked_fill(past, 0)
    return q_into, writes, keys, decay


def _per_row(log_decay: Tensor | None, reset: Tensor | None, micro_steps: int) -> tuple[Tensor | None, Tensor | None]:
    """Decays and resets of every row: those of a step act at its first micro-step."""
    if micro_steps > 1 and log_decay is not None:
        log_decay = pad(log_decay[:, :, None], (0, 0, 0, 0, 0, micro_steps - 1)).flatten(1, 2)
    if micro_steps > 1 and reset is not None:
        reset = pad(reset[:, :, None], (0, micro_steps - 1)).flatten(1, 2)
    return log_decay, reset


def _at_last_micro_step(q: Tensor, micro_steps: int) -> Tensor:
    """Queries of every row, zero but at the last micro-step of each step."""
    if micro_steps == 1:
        return q
    return pad(q[:, :, None], (0, 0, 0, 0, micro_steps - 1, 0)).flatten(1, 2)
