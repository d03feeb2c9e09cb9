"""pLSTM on a chain: linear attention with source, transition and mark gates, whose decay may be negative."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matrixstate.layers.heads import HeadInputsConfig, KeyValueMixer, KeyValueState
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, check_inputs, make_config, zero_padding
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import accumulation_dtype, signed_outer_scan

SLOPE = 5.0  # of the transition's tanh, as in the authors' code


@dataclass(frozen=True)
class PLSTMConfig(HeadInputsConfig):
    """C_t = τ_t C_{t-1} + σ_t k_t v_tᵀ, y_t = (μ_t C_{t-1}ᵀ q_t + δ_t (q_t·k_t) v_t) / √K, four gates per head.

    The source σ, the mark μ and the direct gate δ are sigmoids, the transition τ = tanh(5 (w·c_t + b)) is in (-1, 1),
    all linear in c = conv(x), as q and k; v is linear in x. A step reads the state before it, and itself by δ. The
    read-out is RMS-normed per head, projected, and added to a multiple of c per channel. Source: Pöppel et al. 2025,
    "pLSTM: parallelizable Linear Source Transition Mark networks", on a sequence, with one edge between steps: their τ
    may be a small matrix. Graphs and grids are left out.
    """

    about: ClassVar[About] = About(
        recurrence="C = τ C + σ k vᵀ; y = μ C'ᵀ q + δ (q·k) v, C' the C before; τ in (-1, 1), σ, μ, δ sigmoids",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="outer_scan",
        source="Pöppel et al. 2025, arXiv:2506.11997",
    )

    conv: int = 4
    """Steps of the short convolution (with bias, without an activation) of x. 0: none."""

    def make(self, width: int) -> "PLSTM":
        return PLSTM(width, self)


class PLSTM(KeyValueMixer):
    """The mixer of `PLSTMConfig`. State [B, H, K, V].

    The gates start as constants, with weights of 0: τ at tanh(5), σ, μ and δ at the sigmoid of -5, as in the authors'
    code. The multiples of c start at 1.
    """

    multiply_adds = 3

    no_weight_decay = ("skip",)

    def __init__(self, width: int, config: PLSTMConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(PLSTMConfig, width, config, options)
        H, K, V = config.shape
        self.config, self.width, self.shape = config, width, config.shape
        self.conv = ShortConv(width, config.conv, bias=True, silu=False) if config.conv else None
        self.query_key = projection(width, 2 * H * K, config.input_std)
        self.value = projection(width, H * V, config.input_std)
        self.gates = Linear(width, 4 * H)  # of τ, σ, μ and δ
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias.copy_(torch.tensor([1.0, -5.0, -5.0, -5.0]).repeat_interleave(H))
        self.skip = nn.Parameter(torch.ones(width))
        self.norm = RMSNorm(V)
        self.output = projection(H * V, width)

    def forward(
        self, x: Tensor, state: KeyValueState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, KeyValueState]:
        x, reset = check_inputs("PLSTM", x, self.width, mask, reset)
        state = KeyValueState(None, None) if state is None else state
        c, conv = (x, None) if self.conv is None else self.conv(x, state.conv, mask, reset)
        (H, K, V), wide = self.shape, accumulation_dtype(x.dtype)
        q, k = self.query_key(c).unflatten(-1, (2 * H, K)).chunk(2, dim=2)
        v, q = self.value(x).unflatten(-1, (H, V)), q / math.sqrt(K)
        transition, *gates = self.gates(c).to(wide).chunk(4, dim=-1)
        transition = torch.tanh(SLOPE * transition)
        transition = transition if mask is None else torch.where(mask[..., None], transition, 1)
        source, mark, direct = (torch.sigmoid(gate)[..., None].to(q.dtype) for gate in gates)
        written = zero_padding(source * k, mask)
        y, scan = signed_outer_scan(mark * q, written, v, transition, read="pre", state=state.scan, reset=reset)
        y = self.norm(y + direct * (q * k).sum(-1, keepdim=True) * v).flatten(2)
        return self.output(y) + self.skip * c, KeyValueState(conv, scan)

    def init_state(self, batch: int) -> KeyValueState:
        return KeyValueState(None if self.conv is None else self.conv.init_state(batch), self._zeros(batch))

    def mixing_flops(self, length: int) -> int:
        """The recurrence, the read-out and the convolution."""
        H, K, V = self.shape
        conv = 0 if self.conv is None else self.conv.weight.numel()
        return 2 * (self.multiply_adds * H * K * V + conv)
