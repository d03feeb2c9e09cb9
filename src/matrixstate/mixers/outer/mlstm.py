"""mLSTM, the matrix memory of xLSTM: outer products with exponential input gates, within an up-projected block."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu

from matrixstate.errors import require
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    StateMatrices,
    at_least,
    check_inputs,
    make_config,
)
from matrixstate.layers.norm import HeadNorm
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import MLSTMState, accumulation_dtype, mlstm_scan


@dataclass(frozen=True)
class MLSTMConfig(MixerConfig):
    """C_t = f_t C_{t-1} + e^{i_t} k_t v_tᵀ, n_t = f_t n_{t-1} + e^{i_t} k_t, h_t = C_tᵀ q_t / max(|n_t·q_t|, 1).

    u, z = W_up x; c = silu(conv(u)); q, divided by √d, and k are maps of c, v of u, in blocks of channels; i and f are
    maps of q, k and v together, f through a sigmoid; y = W (LayerNorm(h) + s c) silu(z), normed per head, with a weight
    s per channel. This is the paper's block with its up-projection, which has no MLP beside it. Source: Beck et al.
    2024, "xLSTM: Extended Long Short-Term Memory".
    """

    about: ClassVar[About] = About(
        recurrence="C = f C + e^i k vᵀ; n = f n + e^i k; h = Cᵀ q / max(|n·q|, 1); f = σ(w x), i = w x per head",
        state="heads x d x (d + 1), d = expand x width / heads, and conv - 1 inputs",
        op="outer_scan",
        source="Beck et al. 2024, arXiv:2405.04517",
    )

    heads: int = 4
    """Number of heads H."""
    expand: int = 2
    """Channels inside, as a multiple of the width."""
    conv: int = 4
    """Steps of the short convolution before q and k. 0: none."""
    block: int = 4
    """Channels of a block of the maps to q, k and v."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "heads", "expand", "block"), *at_least(0, self, "conv"))

    def make(self, width: int) -> "MLSTM":
        return MLSTM(width, self)


class MLSTMMixerState(NamedTuple):
    """What an mLSTM mixer carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, inner]; None without a convolution
    scan: MLSTMState | None  # None before the first step


class MLSTM(Mixer):
    """The mixer of `MLSTMConfig`.

    At initialisation the gates do not see the token: f's biases go from 3 to 6 over the heads, those of i are normal
    with standard deviation 0.1. The other maps are normal with variance 2 / (5 inputs).
    """

    no_weight_decay = ("skip",)

    def __init__(self, width: int, config: MLSTMConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(MLSTMConfig, width, config, options)
        H, inner = config.heads, config.expand * width
        require(
            (inner % H == 0, f"mlstm: heads: expected a divisor of expand x width = {inner}, got {H}"),
            (inner % config.block == 0, f"mlstm: block: expected a divisor of {inner}, got {config.block}"),
        )
        self.config, self.width, self.inner, self.shape = config, width, inner, (H, inner // H)
        self.input = projection(width, 2 * inner, math.sqrt(2 / (5 * width)))
        self.conv = ShortConv(inner, config.conv, bias=True) if config.conv else None
        blocks = (3, inner // config.block, config.block, config.block)  # of q, k and v
        self.blocks = nn.Parameter(torch.empty(blocks).normal_(std=math.sqrt(2 / (5 * config.block))))
        self.gates = Linear(3 * inner, 2 * H)  # i, then f
        with torch.no_grad():
            self.gates.weight.zero_()
            self.gates.bias[:H].normal_(std=0.1)
            self.gates.bias[H:] = torch.linspace(3, 6, H)
        self.norm = HeadNorm(*self.shape, bias=False)
        self.skip = nn.Parameter(torch.ones(inner))
        self.output = projection(inner, width)

    def forward(
        self,
        x: Tensor,
        state: MLSTMMixerState | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, MLSTMMixerState]:
        x, reset = check_inputs("MLSTM", x, self.width, mask, reset)
        state = MLSTMMixerState(None, None) if state is None else state
        u, z = self.input(x).chunk(2, dim=-1)
        c, conv = (silu(u), None) if self.conv is None else self.conv(u, state.conv, mask, reset)
        q, k, v = (self._map(a, blocks) for a, blocks in zip((c, c, u), self.blocks, strict=True))
        gates = self.gates(torch.cat([q, k, v], dim=-1))
        q, k, v = (a.unflatten(-1, self.shape) for a in (q / math.sqrt(self.shape[1]), k, v))
        forget, write = gate_exponents(gates, mask)
        h, scan = mlstm_scan(q, k, v, forget, write, state=state.scan, reset=reset)
        return self.output((self.norm(h).flatten(2) + self.skip * c) * silu(z)), MLSTMMixerState(conv, scan)

    def _map(self, x: Tensor, blocks: Tensor) -> Tensor:
        """x [B, T, inner] through a map per block of channels."""
        parts = x.unflatten(-1, blocks.shape[:2])
        return torch.einsum("btni,nij->btnj", parts, blocks.to(x.dtype)).flatten(2)

    def init_state(self, batch: int) -> MLSTMMixerState:
        conv = None if self.conv is None else self.conv.init_state(batch)
        return MLSTMMixerState(conv, empty_sums(self.output.weight, batch, *self.shape, self.shape[1]))

    def state_matrices(self, state: MLSTMMixerState) -> StateMatrices | None:
        return None if state.scan is None else StateMatrices(state.scan.sums, state.scan.max)

    def mixing_flops(self, length: int) -> int:
        """The recurrence, the read-out, the maps in blocks and the convolution."""
        H, d = self.shape
        conv = 0 if self.conv is None else self.conv.weight.numel()
        return 6 * H * d * (d + 1) + 2 * (self.blocks.numel() + conv)


def gate_exponents(gates: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """log f and i [B, T, H], at least float32, from the gates' inputs [B, T, 2 H], i first. Padded steps do nothing."""
    write, forget = gates.to(accumulation_dtype(gates.dtype)).chunk(2, dim=-1)
    forget = logsigmoid(forget)
    if mask is None:
        return forget, write
    padded = ~mask[..., None]
    return forget.masked_fill(padded, 0), write.masked_fill(padded, -torch.inf)


def empty_sums(like: Tensor, batch: int, H: int, K: int, V: int) -> MLSTMState:
    """The state of `mlstm_scan` before the first step."""
    sums = like.new_zeros(batch, H, K, V + 1, dtype=accumulation_dtype(like.dtype))
    return MLSTMState(sums, sums.new_full((batch, H), -torch.inf))
