"""The definition of the quotient: plain PyTorch, one step after another. Its gradient is autograd's."""

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._plain import unsupported
from matrixstate.ops._running_max import finite

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
    """score [B,T,...], v [B,T,...], log_decay [B,T,...] or [...], bonus [...], the state's max, den and num [B,...],
    reset [B,T] -> y [B,T,...] in the dtype of score, and the state's three. Sizes of 1 and None as in the op.
    """
    out, constant = [], log_decay is not None and log_decay.ndim < score.ndim
    for t, (s_t, v_t) in enumerate(zip(score.unbind(dim=1), v.unbind(dim=1), strict=True)):
        if reset is not None:
            max, den, num = (_cut(x, reset[:, t], empty) for x, empty in ((max, -torch.inf), (den, 0), (num, 0)))
        if bonus is not None:
            _, own, top = _added(max, den, num, max, s_t + bonus, v_t)
            out.append(quotient(top, own))
        g_t = 0 if log_decay is None else log_decay if constant else log_decay[:, t]
        max, den, num = _added(max, den, num, max + g_t, s_t, v_t)
        if bonus is None:
            out.append(quotient(num, den))
    return torch.stack(out, dim=1), max, den, num


def _added(max: Tensor, den: Tensor, num: Tensor, decayed: Tensor, s: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """The sums, whose exponents are now relative to `decayed` in place of `max`, and e^s and e^s v added to them."""
    now = torch.maximum(decayed, s).detach()  # the sums times e^now do not depend on it
    kept, weight = (decayed - finite(now)).exp(), (s - finite(now)).exp()
    return now, kept * den + weight, kept * num + weight * v


def quotient(num: Tensor, den: Tensor) -> Tensor:
    """num / den, zeros where nothing has been summed."""
    return num / den.masked_fill(den == 0, 1)


def _cut(x: Tensor, reset: Tensor, empty: float) -> Tensor:
    return x.masked_fill(reset.view(-1, *[1] * (x.ndim - 1)), empty)
