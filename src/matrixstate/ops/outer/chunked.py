"""The outer-product recurrence in chunked form: products of matrices within a chunk, one step per chunk between them.

A number that is not finite spreads over its whole chunk, to earlier steps and other documents too, since what a step
does not see is multiplied by zero.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from matrixstate.ops._checks import widened
from matrixstate.ops._chunks import BLOCK, decay_sums, decayed_products, from_chunks, seen, to_chunks
from matrixstate.ops._dynamic import is_dynamic, over_chunks
from matrixstate.ops._plain import unsupported

__all__ = ["outer_scan", "unsupported"]


@widened
def outer_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    log_decay_v: Tensor | None,
    log_input: Tensor | None,
    bonus: Tensor | None,
    read: str,
    state: Tensor,
    reset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """As the reference. README.md, "By chunks", derives it."""
    T = q.shape[1]
    if is_dynamic(T):
        inputs = (q, k, v, log_decay, log_decay_v, log_input, reset)

        def run(q, k, v, log_decay, log_decay_v, log_input, reset, state):
            return outer_scan(q, k, v, log_decay, log_decay_v, log_input, bonus, read, state, reset, chunk)

        return over_chunks(run, inputs, state, chunk)
    chunk = min(chunk, T)
    if log_decay is not None and log_decay.ndim == 3:
        log_decay = log_decay[..., None]
    own = None  # what a step reads of its own input by the bonus
    if read == "pre" and bonus is not None:
        own = (q * k * bonus).sum(dim=-1, keepdim=True) * v
    if log_input is not None:
        k = k * log_input.exp()[..., None]
    q, k, v = (to_chunks(x, chunk) for x in (q, k, v))
    # [B,H,n,chunk,...]: logarithms of decays summed up to a step; the number of resets up to it
    upto = None if log_decay is None else decay_sums(log_decay, chunk)
    upto_v = None if log_decay_v is None else decay_sums(log_decay_v, chunk)
    documents = None if reset is None else to_chunks(reset[..., None].long(), chunk).cumsum(dim=-1)
    reader, reader_v = upto, upto_v  # the decay of the state at the moment when a step reads it
    if read == "pre":
        reader, reader_v = (None if x is None else _before(x) for x in (upto, upto_v))
    mask = seen(documents, chunk, read == "pre", q.device)
    y = _within(q, k, v, reader, upto, reader_v, upto_v, mask)
    into, writes, decay, decay_v = _between(q, k, v, reader, upto, upto_v, documents)
    carried, S = [], state
    for c in range(q.shape[2]):
        carried.append(S)
        S = S if decay is None else S * decay[:, :, c, :, None]
        S = S if decay_v is None else S * decay_v[:, :, c, None, :]
        S = writes[:, :, c] + S
    read_out = into @ torch.stack(carried, dim=2)
    y = y + (read_out if reader_v is None else read_out * reader_v.exp())
    y = from_chunks(y, T)
    return (y if own is None else y + own), S


def _before(upto: Tensor) -> Tensor:
    """The sums up to and including the step before."""
    return pad(upto[..., :-1, :], (0, 0, 1, 0))


def _within(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    reader: Tensor | None,
    upto: Tensor | None,
    reader_v: Tensor | None,
    upto_v: Tensor | None,
    mask: Tensor,
) -> Tensor:
    """What the steps of a chunk read of one another [B,H,n,C,V]."""
    scalar = upto is not None and upto.shape[-1] == 1
    at_q, at_k = (x.squeeze(-1) if x is not None and scalar else x for x in (reader, upto))
    weights = decayed_products(q, k, at_q, at_k, mask)
    if reader_v is None or upto_v is None:
        return weights @ v
    out = []
    for begin in range(0, weights.shape[-1], BLOCK):  # as in `decayed_products`, on the side of the values
        end = min(begin + BLOCK, weights.shape[-1])
        at = reader_v[..., begin:end, :]
        decay = (at[..., :, None, :] - upto_v[..., None, begin:end, :]).clamp_max(0).exp()
        y = torch.einsum("...tj,...jv,...tjv->...tv", weights[..., begin:end, begin:end], v[..., begin:end, :], decay)
        if begin:
            start = upto_v[..., begin - 1, None, :]
            earlier = weights[..., begin:end, :begin] @ (v[..., :begin, :] * (start - upto_v[..., :begin, :]).exp())
            y = y + earlier * (at - start).clamp_max(0).exp()
        out.append(y)
    return torch.cat(out, dim=-2)


def _between(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    reader: Tensor | None,
    upto: Tensor | None,
    upto_v: Tensor | None,
    documents: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Between chunks: queries of the state before the chunk, what the chunk adds to it, and its decay over the chunk by
    row and by column.
    """
    into = q if reader is None else q * reader.exp()
    keys = k if upto is None else k * (upto[..., -1:, :] - upto).exp()
    values = v if upto_v is None else v * (upto_v[..., -1:, :] - upto_v).exp()
    decay = None if upto is None else upto[..., -1, :].exp()
    decay_v = None if upto_v is None else upto_v[..., -1, :].exp()
    if documents is not None:
        into = into.masked_fill((documents > 0)[..., None], 0)
        keys = keys.masked_fill((documents < documents[..., -1:])[..., None], 0)
        restarted = (documents[..., -1] > 0)[..., None]
        decay = (torch.ones_like(k[..., 0, :1]) if decay is None else decay).masked_fill(restarted, 0)
    return into, keys.mT @ values, decay, decay_v
