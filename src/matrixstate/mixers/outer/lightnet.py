"""LightNet: linear attention with a softmax of the keys over time, which makes it a recurrence with a decay."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor
from torch.nn.functional import silu

from matrixstate.layers.heads import HeadInputs, HeadInputsConfig, KeyValueMixer
from matrixstate.layers.log_sum import EMPTY, softmax_over_time
from matrixstate.layers.low_rank import LowRank
from matrixstate.layers.mixer import About, StateMatrices, at_least, check_inputs, make_config
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, outer_scan


@dataclass(frozen=True)
class LightNetConfig(HeadInputsConfig):
    """S_t = diag(e^{z_{t-1} - z_t}) S_{t-1} + e^{k_t - z_t} v_tᵀ, y_t = S_tᵀ silu(q_t) / √K, with z_t = log Σ e^{k_i}.

    The sum is over the steps i <= t, so S_t is the mean of the values by the softmax of k over them, per key channel.
    The read-out is RMS-normed over all heads and gated with silu(G_2 G_1 x_t). Source: Qin et al. 2024, "You Only Scan
    Once: Efficient Multi-dimension Sequential Modeling with LightNet", along one dimension, without its positions.
    """

    about: ClassVar[About] = About(
        recurrence="S = diag(e^(z' - z)) S + e^(k - z) vᵀ; y = Sᵀ silu(q); z = log(e^z' + e^k), z' the z before",
        state="heads x key_size x (value_size + 1)",
        op="outer_scan",
        source="Qin et al. 2024, arXiv:2405.21022",
    )

    rank: int = 32
    """Channels between G_1 and G_2, the rank of the gate's projection."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), *at_least(1, self, "rank")]

    def make(self, width: int) -> "LightNet":
        return LightNet(width, self)


class LightNetState(NamedTuple):
    """What a LightNet mixer carries from one call to the next."""

    conv: Tensor | None  # [B, conv-1, channels of the inputs]; None without a convolution
    scan: Tensor | None  # [B, H, K, V]; None before the first step
    log_sum: Tensor  # [B, H, K], z


class LightNet(KeyValueMixer):
    """The mixer of `LightNetConfig`."""

    multiply_adds = 3

    def __init__(self, width: int, config: LightNetConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(LightNetConfig, width, config, options)
        H, K, V = config.shape
        self.config, self.width, self.shape = config, width, config.shape
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), config.conv, std=config.input_std)
        self.gate = LowRank(width, config.rank, H * V)
        self.norm = RMSNorm(H * V)
        self.output = projection(H * V, width)

    def forward(
        self, x: Tensor, state: LightNetState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, LightNetState]:
        x, reset = check_inputs("LightNet", x, self.width, mask, reset)
        state = LightNetState(None, None, self._empty(x.shape[0])) if state is None else state
        (q, k, v), conv = self.inputs(x, state.conv, mask, reset)
        q, k = silu(q) / math.sqrt(self.config.key_size), k.to(state.log_sum.dtype)
        decay, k, log_sum = softmax_over_time(k, state.log_sum, mask, reset)
        y, scan = outer_scan(q, k.to(q.dtype), v, log_decay=decay, state=state.scan, reset=reset)
        y = self.norm(y.flatten(2)) * silu(self.gate(x))
        return self.output(y), LightNetState(conv, scan, log_sum)

    def _empty(self, batch: int) -> Tensor:
        weight, (H, K, _) = self.output.weight, self.shape
        return weight.new_full((batch, H, K), EMPTY, dtype=accumulation_dtype(weight.dtype))

    def init_state(self, batch: int) -> LightNetState:
        return LightNetState(self.inputs.init_state(batch), self._zeros(batch), self._empty(batch))

    def state_matrices(self, state: LightNetState) -> StateMatrices | None:
        return None if state.scan is None else StateMatrices(state.scan)
