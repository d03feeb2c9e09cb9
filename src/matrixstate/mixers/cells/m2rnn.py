"""M²RNN: a nonlinear recurrent network whose state is a matrix per head."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.forget_gate import ForgetGate
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    StateMatrices,
    check_inputs,
    is_one_step,
    make_config,
    positive,
)
from matrixstate.layers.norm import EPS, RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.layers.short_conv import ShortConv
from matrixstate.ops import M2RNNWeights, accumulation_dtype, m2rnn_scan, m2rnn_step


@dataclass(frozen=True)
class M2RNNConfig(MixerConfig):
    """h_t = f_t h_{t-1} + (1 - f_t) tanh(h_{t-1} W + k_t v_tᵀ), y_t = RMSNorm((q_tᵀ h_t + D v_t) silu(g_t)).

    q, k and v come from one projection and a short convolution. Each of the six numbers of heads below divides `heads`;
    each of fewer heads serves a contiguous group. Source: Mishra et al., M²RNN.
    """

    about: ClassVar[About] = About(
        recurrence="h = f h + (1 - f) tanh(h W + k vᵀ); y = qᵀ h + D v",
        state="heads x key_size x value_size, and conv - 1 inputs",
        op="m2rnn_scan",
        source="Mishra et al., M²RNN",
        forms=("step",),
    )

    heads: int = 8
    """Number of heads H."""
    key_size: int = 16
    """K, rows of a head's state."""
    value_size: int = 16
    """V, columns of a head's state."""
    query_heads: int = 1
    """Heads of q."""
    key_heads: int = 1
    """Heads of k."""
    value_heads: int | None = None
    """Heads of v. Default: heads."""
    forget_heads: int | None = None
    """Heads of the forget gate f. Default: heads."""
    gate_heads: int | None = None
    """Heads of the output gate g. Default: heads."""
    weight_heads: int | None = None
    """Heads of W. Default: heads."""
    conv: int = 4
    """Steps of the short convolution (followed by silu) of q, k and v. 0: none."""
    residual: bool = True
    """Add D v_t to the read-out, with D learned per head and channel."""
    unit_keys: bool = False
    """Scale q and k to Euclidean length 1."""
    grad_clip: float | None = None
    """Clip the gradient with respect to each state to this absolute value, elementwise. Default: no clipping."""
    input_std: float = 0.02
    """Standard deviation of the input projection's weights at initialisation."""
    weight_start: float = 1.0
    """Factor of W at initialisation. Below 1 a small state decays too, for which the tanh is nearly linear."""
    weight_kind: Literal["identity", "orthogonal"] = "identity"
    """The matrix that `weight_start` multiplies: the identity, or random orthogonal matrices, which mix the columns of
    the state as state tracking needs."""
    forget_start: Literal["spread", "fast"] = "spread"
    """The forget gates at initialisation: "spread" as in Mamba-2, with decays over many lengths, or "fast", f < 0.4."""
    weight_bound: float | None = None
    """Upper bound b of W's spectral norm: W is multiplied by min(1, b / sqrt(|W|_1 |W|_inf)). Below 1 the recurrence is
    a contraction, which keeps long states in the range seen in training. Default: no bound."""

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in _HEADS}
        require(
            (self.heads > 0, f"heads: expected at least 1, got {self.heads}"),
            (self.key_size > 0, f"key_size: expected at least 1, got {self.key_size}"),
            (self.value_size > 0, f"value_size: expected at least 1, got {self.value_size}"),
            *(
                (n is None or (n > 0 and self.heads % n == 0), f"{name}: expected a divisor of {self.heads}, got {n}")
                for name, n in counts.items()
                if self.heads > 0
            ),
            (
                self.heads in [self.heads if n is None else n for name, n in counts.items() if name != "gate_heads"],
                f"heads: expected the largest number of heads apart from gate_heads, got {self.heads}",
            ),
            (self.conv >= 0, f"conv: expected 0 or more steps, got {self.conv}"),
            (
                self.grad_clip is None or self.grad_clip > 0,
                f"grad_clip: expected a positive number, got {self.grad_clip}",
            ),
            *positive(self, "input_std"),
            (
                self.weight_kind in ("identity", "orthogonal"),
                f"weight_kind: expected identity or orthogonal, got {self.weight_kind!r}",
            ),
            (self.forget_start in FORGET_STARTS, f"forget_start: expected spread or fast, got {self.forget_start!r}"),
            (math.isfinite(self.weight_start), f"weight_start: expected a finite number, got {self.weight_start}"),
            (
                self.weight_bound is None or self.weight_bound > 0,
                f"weight_bound: expected a positive number, got {self.weight_bound}",
            ),
        )

    def make(self, width: int) -> "M2RNN":
        return M2RNN(width, self)


# Options of `ForgetGate` for each `forget_start`.
FORGET_STARTS: dict[str, dict[str, float]] = {
    "spread": {},
    "fast": {"step_min": 1, "step_max": 3, "rate_min": 1, "rate_max": 3},
}
_HEADS = ("query_heads", "key_heads", "value_heads", "forget_heads", "gate_heads", "weight_heads")


class M2RNNState(NamedTuple):
    """What an M²RNN carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, channels of q, k and v]; None without a convolution
    scan: Tensor | None  # [B, H, K, V], h; None before the first step


class M2RNN(Mixer):
    """The mixer of `M2RNNConfig`. D starts at 1."""

    no_weight_decay = ("weight", "residual")

    def __init__(self, width: int, config: M2RNNConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(M2RNNConfig, width, config, options)
        self.config, self.width = config, width
        H, K, V = config.heads, config.key_size, config.value_size
        q, k, v, f, g, w = (H if n is None else n for n in (getattr(config, name) for name in _HEADS))
        self.sizes = (q * K, k * K, v * V)
        self.input = projection(width, sum(self.sizes) + f + g * V, std=config.input_std)
        self.gates = (f, g * V)
        self.conv = ShortConv(sum(self.sizes), config.conv) if config.conv else None
        self.forget_gate = ForgetGate(f, **FORGET_STARTS[config.forget_start])
        start = torch.eye(V).repeat(w, 1, 1)
        if config.weight_kind == "orthogonal":
            start = torch.stack([nn.init.orthogonal_(each) for each in start])
        self.weight = nn.Parameter(config.weight_start * start)
        self.residual = nn.Parameter(torch.ones(H, V)) if config.residual else None
        self.norm = RMSNorm(H * V)
        self.output = projection(H * V, width)

    def forward(
        self, x: Tensor, state: M2RNNState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, M2RNNState]:
        x, reset = check_inputs("M2RNN", x, self.width, mask, reset)
        if is_one_step(self, x, mask, reset):
            return self._step(x, state)
        state = M2RNNState(None, None) if state is None else state
        H, K, V = self.config.heads, self.config.key_size, self.config.value_size
        mixed, forget, gate = self.input(x).split((sum(self.sizes), *self.gates), dim=-1)
        conv_state = None
        if self.conv is not None:
            mixed, conv_state = self.conv(mixed, state.conv, mask, reset)
        q, k, v = (a.unflatten(-1, (-1, n)) for a, n in zip(mixed.split(self.sizes, dim=-1), (K, K, V), strict=True))
        if self.config.unit_keys:
            q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)
        f = self.forget_gate(forget)
        if mask is not None:
            f = f.masked_fill(~mask[..., None], 1)  # h_t = h_{t-1} exactly at padded steps
        w = self.bounded_weight()
        y, scan_state = m2rnn_scan(q, k, v, w, f, state.scan, grad_clip=self.config.grad_clip, reset=reset)
        if self.residual is not None:
            y = y + self.residual * v.repeat_interleave(H // v.shape[2], dim=2)
        gate = gate.unflatten(-1, (-1, V)).repeat_interleave(H * V // gate.shape[-1], dim=2)
        y = (y * nn.functional.silu(gate)).flatten(2)
        return self.output(self.norm(y)), M2RNNState(conv_state, scan_state)

    def bounded_weight(self) -> Tensor:
        """W [weight_heads, V, V] scaled down to `weight_bound`, as the recurrence uses it."""
        bound = self.config.weight_bound
        if bound is None:
            return self.weight
        size = self.weight.abs()
        # sqrt(|W|_1 |W|_inf) is at least the spectral norm (Hölder), and needs no iteration
        norm = (size.sum(1).amax(1) * size.sum(2).amax(1)).sqrt()
        return self.weight * (bound / norm.clamp_min(bound))[:, None, None]

    def _step(self, x: Tensor, state: M2RNNState | None) -> tuple[Tensor, M2RNNState]:
        """`forward` of one token per row by a fused op, without gradients."""
        conv, scan = self.init_state(len(x)) if state is None or state.scan is None else state
        assert scan is not None
        y, conv, scan = m2rnn_step(self.input(x), self._weights(), conv, scan)
        return self.output(y), M2RNNState(conv, scan)

    def _weights(self) -> M2RNNWeights:
        K, V, conv, gate = self.config.key_size, self.config.value_size, self.conv, self.forget_gate
        q, k, v = self.sizes
        return M2RNNWeights(
            heads=(q // K, k // K, v // V),
            unit_keys=self.config.unit_keys,
            conv=None if conv is None else conv.weight,
            log_rate=gate.A_log,
            bias=gate.dt_bias,
            w=self.bounded_weight(),
            residual=self.residual,
            norm=self.norm.weight,
            eps=EPS,
        )

    def init_state(self, batch: int) -> M2RNNState:
        config, dtype = self.config, accumulation_dtype(self.weight.dtype)
        return M2RNNState(
            None if self.conv is None else self.conv.init_state(batch),
            self.weight.new_zeros(batch, config.heads, config.key_size, config.value_size, dtype=dtype),
        )

    def state_matrices(self, state: M2RNNState) -> StateMatrices | None:
        return None if state.scan is None else StateMatrices(state.scan, squashed=True)

    def mixing_flops(self, length: int) -> int:
        """The recurrence (a tanh counts as one operation), the read-out and the convolution."""
        H, K, V = self.config.heads, self.config.key_size, self.config.value_size
        return 2 * H * K * V * (V + 3) + (0 if self.conv is None else 2 * self.conv.weight.numel())
