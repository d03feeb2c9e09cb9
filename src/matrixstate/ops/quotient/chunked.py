"""The quotient by the chunks of the linear recurrence: the running maximum first, then both sums at once.

With the maximum known, every decay is e^{m_{t-1} + g_t - m_t} and the weight of every input e^{s_t - m_t}, all of them
in [0, 1].
"""

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._plain import unsupported
from matrixstate.ops._running_max import finite, running_max
from matrixstate.ops.quotient.reference import quotient
from matrixstate.ops.scan.chunked import linear_scan

__all__ = ["normalised_scan", "unsupported"]


@widened
def normalised_scan(
    score: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    bonus: Tensor | None,
    max: Tensor,
    den: Tensor,
    num: Tensor,
    reset: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As the reference."""
    before, now, _, shift = running_max(score, log_decay, max, reset)
    decay = (before + (0 if log_decay is None else log_decay) - shift).exp()
    weight = (score - shift).exp()
    dens, last_den = linear_scan(weight, decay, False, den, reset, "auto")
    nums, last_num = linear_scan(weight * v, decay, False, num, reset, "auto")
    last = now[:, -1].clone()  # a view would keep all of it allocated
    if bonus is None:
        return quotient(nums, dens), last, last_den, last_num
    dens, nums = (_before(x, first, reset) for x, first in ((dens, den), (nums, num)))
    own = score + bonus
    shift = finite(torch.maximum(before, own).detach())
    kept, weight = (before - shift).exp(), (own - shift).exp()
    return quotient(kept * nums + weight * v, kept * dens + weight), last, last_den, last_num


def _before(x: Tensor, first: Tensor, reset: Tensor | None) -> Tensor:
    """The sums as every step finds them."""
    x = torch.cat([first[:, None], x], dim=1)[:, : x.shape[1]]
    return x if reset is None else x.masked_fill(reset.view(*reset.shape, *[1] * (x.ndim - 2)), 0)
