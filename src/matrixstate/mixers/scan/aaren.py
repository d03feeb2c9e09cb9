"""Aaren: attention whose query is learned, so that it is a recurrence."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mixer import About, Mixer, MixerConfig, at_least, check_inputs, make_config, require_width
from matrixstate.layers.projection import projection
from matrixstate.ops import NormalisedState, accumulation_dtype, normalised_scan


@dataclass(frozen=True)
class AarenConfig(MixerConfig):
    """y_t = Σ_{i<=t} e^{s_i} v_i / Σ_{i<=t} e^{s_i}, with s_i = q·k_i / √d and one learned query q per head.

    Source: Feng et al. 2024, "Attention as an RNN".
    """

    about: ClassVar[About] = About(
        recurrence="y = N / D; N = N + e^s v; D = D + e^s; s = q·k / √d, q learned",
        state="channels, and 2 x heads",
        op="normalised_scan",
        source="Feng et al. 2024, arXiv:2405.13956",
        forms=("parallel", "chunked", "step"),
    )

    heads: int = 4
    """Number of heads H; their channels are width / H."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "heads"))

    def make(self, width: int) -> "Aaren":
        return Aaren(width, self)


class Aaren(Mixer):
    """The mixer of `AarenConfig`. State: the sums of `normalised_scan` per head. Queries start normal."""

    no_weight_decay = ("query",)

    def __init__(self, width: int, config: AarenConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(AarenConfig, width, config, options)
        require_width("aaren", width, config.heads, "heads")
        self.config, self.width, self.shape = config, width, (config.heads, width // config.heads)
        self.query = nn.Parameter(torch.randn(self.shape))
        self.inputs = projection(width, 2 * width)
        self.output = projection(width, width)

    def forward(
        self,
        x: Tensor,
        state: NormalisedState | None = None,
        *,
        mask: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor, NormalisedState]:
        x, reset = check_inputs("Aaren", x, self.width, mask, reset)
        k, v = (u.unflatten(-1, self.shape) for u in self.inputs(x).chunk(2, dim=-1))
        score = torch.einsum("bthd,hd->bth", k, self.query.to(k.dtype))[..., None] / math.sqrt(self.shape[1])
        score = score if mask is None else score.masked_fill(~mask[..., None, None], -torch.inf)
        y, state = normalised_scan(score.to(v.dtype), v, state=state, reset=reset)
        return self.output(y.flatten(2)), state

    def init_state(self, batch: int) -> NormalisedState:
        weight, (H, d) = self.output.weight, self.shape
        num = weight.new_zeros(batch, H, d, dtype=accumulation_dtype(weight.dtype))
        den = torch.zeros_like(num[..., :1])
        return NormalisedState(torch.full_like(den, -torch.inf), den, num)

    def mixing_flops(self, length: int) -> int:
        """The scores and the sums."""
        return 4 * self.width
