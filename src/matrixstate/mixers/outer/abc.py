"""ABC, attention with bounded memory: slots that hold means of keys and values by a softmax over time."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import silu

from matrixstate.layers.log_sum import EMPTY, softmax_over_time
from matrixstate.layers.mixer import About, make_config
from matrixstate.layers.norm import RMSNorm
from matrixstate.layers.projection import projection
from matrixstate.mixers.outer.slot_mixer import SlotConfig, SlotMixer
from matrixstate.ops import accumulation_dtype

LIMIT = 32.0  # of the logits of slots, as in flash-linear-attention


@dataclass(frozen=True)
class ABCConfig(SlotConfig):
    """y_t = V_tᵀ softmax(K_t q_t / √K) of M slots; rows m of K_t, V_t are means of keys and values by softmax_i(s_im).

    The softmax is over steps i <= t, with s_t = W_s x_t clamped to ±32. The read-out is RMS-normed per head and
    gated with silu(G x). Source: Peng et al. 2021, "ABC: Attention with Bounded-memory Control"; norm and gate as in
    flash-linear-attention, whose rotary positions are left out.
    """

    about: ClassVar[About] = About(
        recurrence="K = diag(e^(z' - z)) K + e^(s - z) kᵀ; V likewise; y = Vᵀ softmax(K q / √K); z = log(e^z' + e^s)",
        state="heads x slots x (key_size + value_size + 1)",
        op="outer_scan",
        source="Peng et al. 2021, arXiv:2110.02488",
    )

    def make(self, width: int) -> "ABC":
        return ABC(width, self)


class ABC(SlotMixer):
    """The mixer of `ABCConfig`. State: keys [B, H, K, M], values [B, H, M, V] and z [B, H, M]."""

    def __init__(self, width: int, config: ABCConfig | None = None, **options: Any) -> None:
        own = make_config(ABCConfig, width, config, options)
        super().__init__(width, own)
        H, _, V, _ = self.shape
        self.config = own
        self.gate = projection(width, H * V)
        self.norm = RMSNorm(V)

    def features(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q / math.sqrt(self.config.key_size), k, v

    def write(
        self, logits: Tensor, log_sum: Tensor | None, mask: Tensor | None, reset: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        assert log_sum is not None
        return softmax_over_time(logits.clamp(-LIMIT, LIMIT), log_sum, mask, reset)

    def read(self, y: Tensor, x: Tensor) -> Tensor:
        return self.norm(y).flatten(2) * silu(self.gate(x))

    def _log_sum(self, batch: int) -> Tensor:
        weight, (H, _, _, M) = self.output.weight, self.shape
        return weight.new_full((batch, H, M), EMPTY, dtype=accumulation_dtype(weight.dtype))
