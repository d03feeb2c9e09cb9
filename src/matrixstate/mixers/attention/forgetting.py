"""Forgetting attention: softmax attention whose weights decay by gates that depend on the tokens between."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from matrixstate.errors import require
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, Mixer, MixerConfig, at_least, check_inputs, make_config, require_width
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.positions import average_steps_attended
from matrixstate.layers.projection import projection
from matrixstate.layers.token_shift import TokenShift
from matrixstate.ops import ForgettingState, accumulation_dtype, attention


@dataclass(frozen=True)
class ForgettingAttentionConfig(MixerConfig):
    """y_t = sum_j softmax_j(q_t·k_j / √K + log f_{j+1} + ... + log f_t) v_j over j <= t, with f_t = σ(w x_t + b).

    f is one number per head; there are no positions. With `pro`, the paper's Pro block: q and k are RMS-normed per
    head; k and v are mixes α_t (step before) + (1 - α_t) (this step) with α_t = σ(w x_t) per head; the read-out is
    RMS-normed per head and gated with σ(G x_t). Source: Lin et al. 2025, "Forgetting Transformer: Softmax Attention
    with a Forget Gate".
    """

    about: ClassVar[About] = About(
        recurrence="y_t = sum_j softmax_j(q_t·k_j / √K + log f_(j+1) + ... + log f_t) v_j over j <= t; f = σ(w x)",
        state="(2 x head size + 1) x heads per step, at most window - 1 steps; with pro one key and value more",
        op="attention",
        source="Lin et al. 2025, arXiv:2503.02130",
        forms=("parallel", "step"),
    )

    heads: int = 4
    """Number of heads, a divisor of the width."""
    window: int | None = None
    """Steps that a query attends to, its own included. Default: all."""
    pro: bool = False
    """Norms of q, k and the read-out, mixes of k and v with the step before, and an output gate."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads"),
            (self.window is None or self.window > 0, f"window: expected at least 1, got {self.window}"),
        )

    def make(self, width: int) -> "ForgettingAttention":
        return ForgettingAttention(width, self)


class ForgettingAttentionState(NamedTuple):
    """What forgetting attention carries from one call to the next."""

    shift: Tensor | None  # [B, 1, 2 width], the last k and v before they were mixed; None unless `pro`
    cache: ForgettingState


class ForgettingAttention(Mixer):
    """The mixer of `ForgettingAttentionConfig`. At initialisation the gates are near σ(0) = 1/2."""

    def __init__(self, width: int, config: ForgettingAttentionConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(ForgettingAttentionConfig, width, config, options)
        require_width("forgetting_attention", width, config.heads, "heads")
        H, K = config.heads, width // config.heads
        self.config, self.width, self.shape = config, width, (H, K)
        self.input = projection(width, 3 * width)
        self.forget = Linear(width, H)
        nn.init.normal_(self.forget.weight, std=0.02)
        nn.init.zeros_(self.forget.bias)
        self.output = projection(width, width)
        self.shift = TokenShift(2 * width) if config.pro else None
        if config.pro:
            self.mix = projection(width, 2 * H)  # of k and v
            self.gate = projection(width, width)
            self.norms = nn.ModuleList(RMSNorm(K) for _ in "qky")

    def forward(
        self,
        x: Tensor,
        state: ForgettingAttentionState | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, ForgettingAttentionState]:
        x, reset = check_inputs("ForgettingAttention", x, self.width, mask, reset)
        last, cache = (None, None) if state is None else state
        q, kv = self.input(x).split([self.width, 2 * self.width], dim=-1)
        if self.shift is not None:
            before, last = self.shift(kv, last, mask, reset)
            mix = torch.sigmoid(self.mix(x)).repeat_interleave(self.shape[1], dim=-1)
            kv = mix * before + (1 - mix) * kv
        q, k, v = (a.unflatten(-1, self.shape) for a in (q, *kv.chunk(2, dim=-1)))
        if self.config.pro:
            q, k = self.norms[0](q).to(v.dtype), self.norms[1](k).to(v.dtype)
        log_forget = logsigmoid(self.forget(x).to(accumulation_dtype(x.dtype)))
        options = {"window": self.config.window, "log_forget": log_forget, "mask": mask, "reset": reset}
        y, cache = attention(q, k, v, cache, **options)
        if self.config.pro:
            y = self.norms[2](y) * torch.sigmoid(self.gate(x)).unflatten(-1, self.shape)
        return self.output(y.flatten(2)), ForgettingAttentionState(last, cache)

    def init_state(self, batch: int) -> ForgettingAttentionState:
        weight, (H, K) = self.output.weight, self.shape
        empty = weight.new_zeros(batch, 0, H, K, dtype=accumulation_dtype(weight.dtype))
        length = torch.zeros(batch, dtype=torch.int64, device=weight.device)
        shift = None if self.shift is None else self.shift.init_state(batch)
        return ForgettingAttentionState(shift, ForgettingState(empty, empty, length, empty[..., 0]))

    def mixing_flops(self, length: int) -> int:
        """The products of queries with keys and of weights with values, on average over a sequence of `length`."""
        return int(4 * self.width * average_steps_attended(length, self.config.window))

    def state_bytes(self, length: int) -> int:
        cached = length if self.config.window is None else min(length, self.config.window - 1)
        return super().state_bytes(length) + 4 * cached * (2 * self.width + self.config.heads)
