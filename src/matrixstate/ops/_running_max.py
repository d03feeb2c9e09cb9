"""The largest exponent so far: by what sums of exponentials are scaled so that none can overflow."""

import torch
from torch import Tensor

from matrixstate.ops._dynamic import is_dynamic, over_chunks

CHUNK = 16  # steps of a chunk where the length is dynamic


@torch.no_grad()
def running_max(
    score: Tensor, log_decay: Tensor | None, state: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """m_t = max(m_{t-1} + g_t, s_t), and by it the factors of a sum of e^{s_i} that is kept divided by e^{m_t}.

    No gradient passes: what is divided by e^{m_t} and later multiplied by it does not depend on m_t.

    Args:
        score: [B, T, ...] s, at least float32, T >= 1; -inf where a step adds nothing.
        log_decay: g, [B, T, ...] or [...] with size 1 where it is shared, or None: zeros.
        state: [B, ...] m before the first step; -inf where nothing has been added.
        reset: [B, T] bool or None, True where a document starts.

    Returns:
        [B, T, ...] m_{t-1} as step t finds it, -inf at a document's first step.
        [B, T, ...] m_t.
        [B, T, ...] and [B, T, ...]: what is subtracted from exponents before and after the step: m, or 0 for -inf.

    Cost: log2 T passes over the scores (Hillis & Steele 1986); where T is dynamic, one chunk after another.
    """
    if log_decay is None:
        log_decay = torch.zeros((), dtype=score.dtype, device=score.device)
    steps = log_decay.expand_as(score)
    if reset is not None:  # what was before is multiplied by zero
        steps = steps.masked_fill(_wide(reset, score), -torch.inf)
    if is_dynamic(score.shape[1]):
        real = torch.ones(score.shape[:2], dtype=torch.bool, device=score.device)
        now, _ = over_chunks(_padded, (score, steps, real), state, CHUNK)
    else:
        now = _by_doubling(score, steps, state)
    before = torch.cat([state[:, None], now], dim=1)[:, : score.shape[1]]
    if reset is not None:
        before = before.masked_fill(_wide(reset, score), -torch.inf)
    return before, now, finite(before), finite(now)


def finite(m: Tensor) -> Tensor:
    """m with 0 for -inf: the difference of two infinities is not a number."""
    return m.masked_fill(m == -torch.inf, 0)


def _padded(score: Tensor, steps: Tensor, real: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk, whose padding adds nothing."""
    now = _by_doubling(score.masked_fill(~_wide(real, score), -torch.inf), steps, state)
    return now, now[:, -1].clone()


def _by_doubling(score: Tensor, steps: Tensor, state: Tensor) -> Tensor:
    """The maps m -> max(m + g, s) composed: (g, s) then (h, u) is (g + h, max(s + h, u))."""
    best = torch.cat([torch.maximum(state[:, None] + steps[:, :1], score[:, :1]), score[:, 1:]], dim=1)
    stride = 1
    while stride < score.shape[1]:
        left, right = slice(None, -stride), slice(stride, None)
        joined = torch.maximum(best[:, left] + steps[:, right], best[:, right])
        best = torch.cat([best[:, :stride], joined], dim=1)
        steps = torch.cat([steps[:, :stride], steps[:, left] + steps[:, right]], dim=1)
        stride *= 2
    return best


def _wide(flags: Tensor, like: Tensor) -> Tensor:
    """flags [B, T] with the axes of `like`."""
    return flags.view(*flags.shape, *[1] * (like.ndim - 2))
