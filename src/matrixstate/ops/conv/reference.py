"""The definition of the causal convolution: plain PyTorch. Its gradient is autograd's."""

import torch
from torch import Tensor


def unsupported(device: str, dtype: torch.dtype) -> str | None:
    return None


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, reset: Tensor | None, activation: str | None
) -> tuple[Tensor, Tensor]:
    """x [B,T,C], weight [C,K], bias [C] or None, state [B,K-1,C], reset [B,T] or None -> y [B,T,C], state."""
    T, K = x.shape[1], weight.shape[1]
    inputs = torch.cat([state, x], dim=1)
    document = None
    if reset is not None:  # 0 for what came in with the state, then one more at every reset
        document = torch.nn.functional.pad(reset.long().cumsum(dim=1), (K - 1, 0))
    y = x * weight[:, K - 1]
    for lag in range(1, K):
        window = slice(K - 1 - lag, K - 1 - lag + T)
        term = inputs[:, window] * weight[:, K - 1 - lag]
        if document is not None:
            term = term.masked_fill((document[:, window] != document[:, K - 1 :])[..., None], 0)
        y = y + term
    y = y if bias is None else y + bias
    y = y if activation is None else torch.nn.functional.silu(y)
    state = inputs[:, T:].clone()  # a view would keep all inputs alive
    if document is not None:
        state = state.masked_fill((document[:, T:] != document[:, -1:])[..., None], 0)
    return y, state
