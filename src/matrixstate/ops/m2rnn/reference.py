"""The definition of the M²RNN recurrence: plain PyTorch, one step after another. Its gradient is autograd's."""

import torch
from torch import Tensor

from matrixstate.ops._checks import widened
from matrixstate.ops._gradient import clamp_gradient
from matrixstate.ops._heads import share
from matrixstate.ops._plain import unsupported
from matrixstate.ops.conv import causal_conv
from matrixstate.ops.m2rnn.checks import check_step
from matrixstate.ops.m2rnn.weights import M2RNNWeights

__all__ = ["m2rnn_scan", "m2rnn_step", "unsupported"]


@widened
def m2rnn_scan(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, f: Tensor, state: Tensor, grad_clip: float | None, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """q [B,T,Hq,K], k [B,T,Hk,K], v [B,T,Hv,V], w [Hw,V,V], f [B,T,Hf], state [B,H,K,V], reset [B,T] -> y [B,T,H,V] in
    the dtype of q, state.
    """
    H = state.shape[1]
    (q, k, v, f), w = (share(a, 2, H) for a in (q, k, v, f)), share(w, 0, H)
    h, out = state, []
    steps = zip(
        *(a.unbind(dim=1) for a in (q[..., None, :], k[..., None], v[..., None, :], f[..., None, None])), strict=True
    )
    for t, (q_t, k_t, v_t, f_t) in enumerate(steps):
        if reset is not None:
            h = h.masked_fill(reset[:, t, None, None, None], 0)
        h = f_t * h + (1 - f_t) * torch.tanh(h @ w + k_t * v_t)
        if grad_clip is not None:
            h = clamp_gradient(h, f_t < 1, grad_clip)
        out.append(q_t @ h)
    return torch.cat(out, dim=2).transpose(1, 2), h


def m2rnn_step(
    x: Tensor, weights: M2RNNWeights, past: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The definition of the step: the ops that it replaces, one after another."""
    channels = check_step("m2rnn_step", x, weights, past, state)
    _, H, K, V = state.shape
    x = x.to(state.dtype)
    log_rate, bias, norm = (a.to(state.dtype) for a in (weights.log_rate, weights.bias, weights.norm))
    (heads_q, heads_k, heads_v), forget_heads = weights.heads, len(bias)
    mixed, z, gate = x.split((channels, forget_heads, x.shape[2] - channels - forget_heads), dim=-1)
    if weights.conv is not None:
        mixed, past = causal_conv(mixed, weights.conv, state=past, activation="silu", backend="reference")
    parts = mixed.split((heads_q * K, heads_k * K, heads_v * V), dim=-1)
    q, k, v = (a.unflatten(-1, (-1, n)) for a, n in zip(parts, (K, K, V), strict=True))
    if weights.unit_keys:
        q, k = torch.nn.functional.normalize(q, dim=-1), torch.nn.functional.normalize(k, dim=-1)
    f = torch.exp(-log_rate.exp() * torch.nn.functional.softplus(z + bias))
    y, state = m2rnn_scan(q, k, v, weights.w, f, state, None, None)
    if weights.residual is not None:
        y = y + weights.residual * v.repeat_interleave(H // heads_v, dim=2)
    gate = gate.unflatten(-1, (-1, V)).repeat_interleave(H * V // gate.shape[-1], dim=2)
    y = (y * torch.nn.functional.silu(gate)).flatten(2)
    return torch.nn.functional.rms_norm(y, (H * V,), norm, weights.eps).to(weights.norm.dtype), past, state
