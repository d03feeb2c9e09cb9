"""The linear transformer: attention with a product of positive features in place of the softmax."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matrixstate.errors import require
from matrixstate.layers.heads import HeadInputs, KeyValueMixer, KeyValueState
from matrixstate.layers.mixer import (
    About,
    MixerConfig,
    StateMatrices,
    at_least,
    check_inputs,
    make_config,
    positive,
    zero_padding,
)
from matrixstate.layers.projection import projection
from matrixstate.ops import linear_attention


@dataclass(frozen=True)
class LinearTransformerConfig(MixerConfig):
    """S_t = S_{t-1} + φ(k_t) v_tᵀ, z_t = z_{t-1} + φ(k_t), y_t = S_tᵀ φ(q_t) / z_tᵀ φ(q_t), φ = elu + 1.

    There is no decay. Source: Katharopoulos et al. 2020, "Transformers are RNNs".
    """

    about: ClassVar[About] = About(
        recurrence="S = S + φ(k) vᵀ; z = z + φ(k); y = Sᵀ φ(q) / zᵀ φ(q); φ = elu + 1",
        state="heads x key_size x (value_size + 1)",
        op="outer_scan",
        source="Katharopoulos et al. 2020, arXiv:2006.16236",
    )

    heads: int = 4
    """Number of heads H."""
    key_size: int = 32
    """K, channels and features of a head's queries and keys."""
    value_size: int = 32
    """V, channels of a head's values."""
    conv: int = 0
    """Steps of a short convolution (followed by silu) of q, k and v. The paper has no convolution."""
    input_std: float = 0.02
    """Standard deviation of the input projection's weights at initialisation."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads", "key_size", "value_size"),
            *at_least(0, self, "conv"),
            *positive(self, "input_std"),
        )

    def make(self, width: int) -> "LinearTransformer":
        return LinearTransformer(width, self)


class LinearTransformer(KeyValueMixer):
    """The mixer of `LinearTransformerConfig`. State: S with z as its last column [B, H, K, V + 1]."""

    multiply_adds = 2

    def __init__(self, width: int, config: LinearTransformerConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(LinearTransformerConfig, width, config, options)
        H, K, V = config.heads, config.key_size, config.value_size
        self.config, self.width, self.shape = config, width, (H, K, V + 1)
        self.inputs = HeadInputs(width, ((H, K), (H, K), (H, V)), config.conv, std=config.input_std)
        self.output = projection(H * V, width)

    def forward(
        self, x: Tensor, state: KeyValueState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, KeyValueState]:
        x, reset = check_inputs("LinearTransformer", x, self.width, mask, reset)
        state = KeyValueState(None, None) if state is None else state
        (q, k, v), conv = self.inputs(x, state.conv, mask, reset)
        y, scan = linear_attention(features(q), zero_padding(features(k), mask), v, state=state.scan, reset=reset)
        return self.output(y.flatten(2)), KeyValueState(conv, scan)

    def state_matrices(self, state: KeyValueState) -> StateMatrices | None:
        return None if state.scan is None else StateMatrices(state.scan[..., :-1])


def features(x: Tensor) -> Tensor:
    """φ(x) = elu(x) + 1, which is positive; same shape and dtype."""
    # not torch.nn.functional.elu, whose gradient torch.compile traces with wrong strides
    return torch.where(x > 0, x + 1, x.clamp_max(0).exp())
