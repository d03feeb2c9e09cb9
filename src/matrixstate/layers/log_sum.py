"""Running sums of exponentials in log space, within documents."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

EMPTY = -1e30  # log of a sum of nothing; finite, for the difference of two infinities is not a number


def log_cumulative_sum(x: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """z_{t-1} = log Σ e^{x_i} over the steps i < t of the document of step t, entry by entry.

    Args:
        x: [B, T, H, K] floating point; `EMPTY` where a step adds nothing.
        state: [B, H, K], dtype of x: z before the first step; `EMPTY` where there is none.
        reset: [B, T] bool or None, True where a document starts.

    Returns:
        [B, T, H, K], z_{t-1}; `EMPTY` at a document's first step.
        [B, H, K], the state of the next call, z_T.

    Cost: log2 T passes over x (Hillis & Steele 1986).
    """
    total = torch.cat([state[:, None], x], dim=1)
    joins = torch.ones(*total.shape[:2], 1, 1, dtype=torch.bool, device=x.device)  # nothing summed so far is a start
    if reset is not None:
        joins[:, 1:] = ~reset[..., None, None]
    stride = 1
    while stride < total.shape[1]:
        left, right = slice(None, -stride), slice(stride, None)
        joined = torch.where(joins[:, right], torch.logaddexp(total[:, right], total[:, left]), total[:, right])
        total = torch.cat([total[:, :stride], joined], dim=1)
        joins = torch.cat([joins[:, :stride], joins[:, right] & joins[:, left]], dim=1)
        stride *= 2
    before = total[:, :-1]
    if reset is not None:
        before = before.masked_fill(reset[..., None, None], EMPTY)
    return before, total[:, -1].clone()  # a view would keep all of it allocated


def softmax_over_time(
    x: Tensor, state: Tensor, mask: Tensor | None, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The decay and the weight of a running mean by the softmax of x over the steps so far, entry by entry.

    S_t = e^{z_{t-1} - z_t} S_{t-1} + e^{x_t - z_t} v_t is the mean of v, with z as in `log_cumulative_sum`.

    Args:
        x, state, reset: as there, x finite.
        mask: [B, T] bool or None, True at real steps. Padded steps change nothing.

    Returns:
        [B, T, H, K], the logarithm of the decay, z_{t-1} - z_t <= 0; 0 at a document's first step.
        [B, T, H, K], the weight e^{x_t - z_t}, from 0 to 1.
        [B, H, K], the state of the next call.
    """
    x = x if mask is None else x.masked_fill(~mask[..., None, None], EMPTY)
    before, state = log_cumulative_sum(x, state, reset)
    # z_t - z_{t-1} = log(1 + e^{x_t - z_{t-1}}); the difference of the sums would lose digits in long documents
    share = x - before
    # a first step has no state that could decay, and a decay as of EMPTY would lose the digits of all later ones
    decay, weight = logsigmoid(-share).masked_fill(before <= EMPTY, 0), torch.sigmoid(share)
    if mask is None:
        return decay, weight, state
    padded = ~mask[..., None, None]
    return decay.masked_fill(padded, 0), weight.masked_fill(padded, 0), state
