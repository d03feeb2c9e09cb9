"""HiPPO's gated RNN: besides its hidden state it keeps learned signals as coefficients of orthogonal polynomials."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from matrixstate.errors import require
from matrixstate.layers.discretise import zoh
from matrixstate.layers.hippo import lagt, legs, legt
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, MixerConfig, at_least, make_config, one_of, positive
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.mixers.cells.step_mixer import StepMixer
from matrixstate.ops import accumulation_dtype

MEASURES = {"legs": legs, "legt": legt, "lagt": lagt}


@dataclass(frozen=True)
class HiPPOConfig(MixerConfig):
    """f_t = U [x_t, h_{t-1}], c_t = Ā_t c_{t-1} + b̄_t f_t, h_t = (1 - g) h_{t-1} + g tanh(W [x_t, c_t]).

    g = σ(V [x_t, c_t]). Ā_t and b̄_t keep the coefficients of the past of f: by "legs", over all t steps since the
    document's start, as the bilinear rule with a step of 1/t; by "legt", over a window, and by "lagt", with weights
    that decay, by zero-order hold with a step of 1/`window`. Source: Gu et al. 2020, "HiPPO: Recurrent Memory with
    Optimal Polynomial Projections".
    """

    about: ClassVar[About] = About(
        recurrence="f = U [x, h]; c = Ā_t c + b̄_t f, polynomials of the past; h = (1 - g) h + g tanh(W [x, c])",
        state="channels + memories x order",
        op=None,
        source="Gu et al. 2020, arXiv:2008.07669",
        forms=("step",),
    )

    measure: str = "legs"
    """Which polynomials, over which past: "legs", "legt" or "lagt"."""
    channels: int | None = None
    """Channels of h. Default: the width."""
    memories: int = 1
    """Signals f that are remembered."""
    order: int = 32
    """Polynomials of a memory."""
    window: float = 128.0
    """Steps that "legt" remembers; the time scale of "lagt". "legs" has none."""

    def __post_init__(self) -> None:
        require(
            one_of(self, "measure", *MEASURES),
            (self.channels is None or self.channels > 0, f"channels: expected at least 1, got {self.channels}"),
            *at_least(1, self, "memories", "order"),
            *positive(self, "window"),
        )

    def make(self, width: int) -> "HiPPO":
        return HiPPO(width, self)


class HiPPOState(NamedTuple):
    """What a `HiPPO` carries from one call to the next."""

    hidden: Tensor  # [B, channels]
    memory: Tensor  # [B, memories, order]
    steps: Tensor  # [B] int64, of the document so far


class HiPPO(Float32Parameters, StepMixer):
    """The mixer of `HiPPOConfig`.

    At initialisation the map to f is uniform with variance 1/inputs, those to h and g are normal with variance
    2/(inputs + channels) for x and for c by itself (Xavier), and biases are 0. Ā and b̄ are not trained.
    """

    transition: Tensor
    write: Tensor

    float32 = ("transition", "write")

    def __init__(self, width: int, config: HiPPOConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(HiPPOConfig, width, config, options)
        self.config, self.width, self.channels = config, width, config.channels or width
        C, M, N = self.channels, config.memories, config.order
        self.inputs = Linear(width, M + 2 * C)  # to f, g and the candidate
        self.signal = projection(C, M)  # from h to f
        self.readout = projection(M * N, 2 * C)  # from c to g and the candidate
        self.output = projection(C, width, 1 / math.sqrt(C))
        self.register_buffer("transition", torch.empty(N, N))
        self.register_buffer("write", torch.empty(N))
        A, b = MEASURES[config.measure](N)
        if config.measure != "legs":  # whose steps have lengths of their own
            A, b = zoh(A, b, torch.tensor(1 / config.window, dtype=A.dtype, device="cpu"))
        self.transition.copy_(A)
        self.write.copy_(b)
        limit = math.sqrt(3 / (width + C))
        with torch.no_grad():
            for part in (self.inputs.weight[:M], self.signal.weight):
                nn.init.uniform_(part, -limit, limit)
            for part in (*self.inputs.weight[M:].chunk(2), *self.readout.weight.chunk(2)):
                nn.init.xavier_normal_(part)
            self.inputs.bias.zero_()

    def step(self, z: Tensor, state: HiPPOState) -> HiPPOState:
        f, gates = z.split([self.config.memories, 2 * self.channels], dim=-1)
        steps = state.steps + 1
        memory = self.remember(state.memory, f + linear(state.hidden, self.signal.weight.to(z.dtype)), steps)
        gates = gates + linear(memory.flatten(1), self.readout.weight.to(z.dtype))
        g, candidate = gates.chunk(2, dim=-1)
        return HiPPOState(torch.lerp(state.hidden, torch.tanh(candidate), torch.sigmoid(g)), memory, steps)

    def remember(self, memory: Tensor, f: Tensor, steps: Tensor) -> Tensor:
        """memory [B, memories, order] after f [B, memories] at the document's step number `steps` [B], from 1 on."""
        if self.config.measure != "legs":
            return linear(memory, self.transition) + f[..., None] * self.write
        # With R = (I - A/2t)⁻¹ the bilinear rule is (2 R - I) c + R b f/t; A is lower triangular.
        half = 0.5 / steps.to(memory.dtype)[:, None, None]
        near = torch.eye(self.config.order, dtype=memory.dtype, device=memory.device) - half * self.transition
        right = memory + half * f[..., None] * self.write
        return 2 * torch.linalg.solve_triangular(near, right.mT, upper=False).mT - memory

    def init_state(self, batch: int) -> HiPPOState:
        weight, (M, N) = self.output.weight, (self.config.memories, self.config.order)
        wide = accumulation_dtype(weight.dtype)
        hidden, memory = weight.new_zeros(batch, self.channels, dtype=wide), weight.new_zeros(batch, M, N, dtype=wide)
        return HiPPOState(hidden, memory, weight.new_zeros(batch, dtype=torch.long))

    def mixing_flops(self, length: int) -> int:
        """The memory, and the maps between it and h."""
        M, N = self.config.memories, self.config.order
        return 2 * (M * N * (N + 1) + self.signal.weight.numel() + self.readout.weight.numel())
