"""Running sums of exponentials in log space, within documents."""

import torch
from torch import Tensor

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
