"""What is added to the scores of attention."""

import torch
from torch import Tensor
from torch.nn.functional import pad


def since(log_forget: Tensor, allowed: Tensor) -> Tensor:
    """g_{j+1} + ... + g_t for each of the last T of N steps t and every step j that it sees: [B, H, T, N].

    Args:
        log_forget: [B, N, H], g.
        allowed: [B, 1, T, N] bool, which steps each new step sees.

    Each sum begins at its own j: the difference of two sums over the whole sequence would lose its digits, and would
    leave a rounding in gradients of other documents' gates.
    """
    gates, T = log_forget.transpose(1, 2), allowed.shape[2]
    S = gates.shape[2] - T
    step = torch.arange(S + T, device=gates.device)
    counts = allowed & (step < step[S:, None])  # gates that a step before has passed
    new = torch.where(counts, gates[:, :, S:, None], 0).cumsum(dim=2)
    if S == 0:
        return new
    earlier = gates[:, :, 1:S].flip(2).cumsum(2).flip(2)  # from each cached step to the last cached one
    return new + torch.nn.functional.pad(earlier, (0, T + 1))[:, :, None]


def with_sinks(
    keys: Tensor, values: Tensor, allowed: Tensor, bias: Tensor | None, sinks: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """keys, values [B, N, G, .], allowed [B, 1, T, N] and bias [B, H, T, N] with one more step in front of all.

    Its key and its value are zero and every query sees it, so its score is its bias, that of sinks [H].
    """
    keys, values = pad(keys, (0, 0, 0, 0, 1, 0)), pad(values, (0, 0, 0, 0, 1, 0))
    (B, _, T, N), H = allowed.shape, len(sinks)
    bias = sinks.new_zeros(B, H, T, N) if bias is None else bias
    first = sinks.view(1, H, 1, 1).expand(B, H, T, 1)
    return keys, values, pad(allowed, (1, 0), value=True), torch.cat([first, bias], dim=-1)
