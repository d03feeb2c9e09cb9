"""The mLSTM layer of xLSTM 7B: without a convolution and without an up-projection, its gates capped."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matrixstate.layers.heads import KeyValueConfig
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, Mixer, StateMatrices, check_inputs, make_config, positive
from matrixstate.layers.norm import HeadNorm
from matrixstate.layers.projection import projection
from matrixstate.mixers.outer.mlstm import empty_sums, gate_exponents
from matrixstate.ops import MLSTMState, mlstm_scan


@dataclass(frozen=True)
class MLSTMLargeConfig(KeyValueConfig):
    """C_t = f_t C_{t-1} + e^{i_t} k_t v_tᵀ, n_t = f_t n_{t-1} + e^{i_t} k_t, h_t = C_tᵀ q_t / max(|n_t·q_t|, 1).

    q is divided by √K; i and f are of c tanh((w x_t + b) / c), f through a sigmoid; y = W (LayerNorm(h) σ(W_o x_t)),
    normed per head without a bias. Source: Beck et al. 2025, "xLSTM 7B", where K is half of V and the MLP is SwiGLU.
    """

    about: ClassVar[About] = About(
        recurrence="C = f C + e^i k vᵀ; n = f n + e^i k; h = Cᵀ q / max(|n·q|, 1); f = σ(.), i = 15 tanh(. / 15)",
        state="heads x (key_size x (value_size + 1) + 1)",
        op="outer_scan",
        source="Beck et al. 2025, arXiv:2503.13427",
    )

    cap: float = 15.0
    """c, which the inputs of the gates do not exceed."""

    def checks(self) -> list[tuple[bool, str]]:
        return [*super().checks(), *positive(self, "cap")]

    def make(self, width: int) -> "MLSTMLarge":
        return MLSTMLarge(width, self)


class MLSTMLarge(Mixer):
    """The mixer of `MLSTMLargeConfig`. State: the sums of `mlstm_scan`.

    At initialisation the gates do not see the token: biases of -10 for i and from 3 to 6 over the heads for f. The
    maps of x are normal with variance 2 / (5 width).
    """

    def __init__(self, width: int, config: MLSTMLargeConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(MLSTMLargeConfig, width, config, options)
        self.config, self.width, (H, K, V) = config, width, config.shape
        std = math.sqrt(2 / (5 * width))
        self.inputs = projection(width, H * (2 * K + V), std)
        self.gate = projection(width, H * V, std)
        self.gates = Linear(width, 2 * H)  # i, then f
        with torch.no_grad():
            self.gates.weight.zero_()
            self.gates.bias[:H] = -10
            self.gates.bias[H:] = torch.linspace(3, 6, H)
        self.norm = HeadNorm(H, V, eps=1e-6, bias=False)
        self.output = projection(H * V, width)

    def forward(
        self, x: Tensor, state: MLSTMState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, MLSTMState]:
        x, reset = check_inputs("MLSTMLarge", x, self.width, mask, reset)
        H, K, V = self.config.shape
        q, k, v = self.inputs(x).split([H * K, H * K, H * V], dim=-1)
        q, k, v = (q / math.sqrt(K)).unflatten(-1, (H, K)), k.unflatten(-1, (H, K)), v.unflatten(-1, (H, V))
        cap = self.config.cap
        forget, write = gate_exponents(cap * torch.tanh(self.gates(x) / cap), mask)
        h, state = mlstm_scan(q, k, v, forget, write, state=state, reset=reset)
        return self.output(torch.sigmoid(self.gate(x)) * self.norm(h).flatten(2)), state

    def init_state(self, batch: int) -> MLSTMState:
        return empty_sums(self.output.weight, batch, *self.config.shape)

    def state_matrices(self, state: MLSTMState) -> StateMatrices | None:
        return StateMatrices(state.sums, state.max)

    def mixing_flops(self, length: int) -> int:
        """The recurrence and the read-out."""
        H, K, V = self.config.shape
        return 6 * H * K * (V + 1)
