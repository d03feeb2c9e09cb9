"""LMU in its parallel form: memories of windows of learned signals, as coefficients of Legendre polynomials."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from matrixstate.errors import require
from matrixstate.layers.discretise import zoh
from matrixstate.layers.hippo import lmu
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, Mixer, MixerConfig, at_least, check_inputs, make_config, positive
from matrixstate.layers.parameters import Float32Parameters
from matrixstate.layers.projection import projection
from matrixstate.ops import accumulation_dtype, dense_lti_scan


@dataclass(frozen=True)
class LMUConfig(MixerConfig):
    """m_t = Ā m_{t-1} + b̄ u_t for each of some memories, u_t = e·x_t + c; y_t = W gelu(W_m m_t + W_x x_t + b).

    Ā and b̄ are constant: m holds the last `window` steps of u in Legendre polynomials, by zero-order hold. No hidden
    state is fed back, so that the memory is linear. Sources: Voelker et al. 2019, "Legendre Memory Units"; Chilkuri &
    Eliasmith 2021, "Parallelizing Legendre Memory Unit Training"; Liu et al. 2024, "LMUFormer".
    """

    about: ClassVar[About] = About(
        recurrence="m = Ā m + b̄ (e·x); y = W gelu(W_m m + W_x x), Ā constant: Legendre polynomials of a window",
        state="memories x order",
        op="dense_lti_scan",
        source="Voelker et al. 2019; Chilkuri & Eliasmith 2021, arXiv:2102.11417; Liu et al. 2024, arXiv:2402.04882",
        forms=("chunked", "step"),
    )

    memories: int = 8
    """Signals u that are remembered."""
    order: int = 32
    """Polynomials of a memory. Details shorter than about window / order steps are lost."""
    window: float = 128.0
    """θ, steps that are remembered."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "memories", "order"), *positive(self, "window"))

    def make(self, width: int) -> "LMU":
        return LMU(width, self)


class LMU(Float32Parameters, Mixer):
    """The mixer of `LMUConfig`. State [B, memories, order].

    At initialisation e is uniform with variance 1/width (LeCun), W_m and W_x are normal with variance
    2/(inputs + width) (Xavier), W with 1/width, and biases are 0. Ā and b̄ are not trained.
    """

    transition: Tensor
    write: Tensor

    float32 = ("transition", "write")

    def __init__(self, width: int, config: LMUConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(LMUConfig, width, config, options)
        self.config, self.width = config, width
        self.register_buffer("transition", torch.empty(1, config.order, config.order))
        self.register_buffer("write", torch.empty(1, config.order))
        A, b = zoh(*lmu(config.order), torch.tensor(1 / config.window, dtype=torch.float64, device="cpu"))
        self.transition.copy_(A)
        self.write.copy_(b)
        self.signal = Linear(width, config.memories)
        self.readout = projection(config.memories * config.order, width)
        self.hidden = Linear(width, width)
        self.output = projection(width, width, 1 / math.sqrt(width))
        nn.init.uniform_(self.signal.weight, -math.sqrt(3 / width), math.sqrt(3 / width))
        nn.init.zeros_(self.signal.bias)
        nn.init.xavier_normal_(self.readout.weight)
        nn.init.xavier_normal_(self.hidden.weight)
        nn.init.zeros_(self.hidden.bias)

    def forward(
        self, x: Tensor, state: Tensor | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        x, reset = check_inputs("LMU", x, self.width, mask, reset)
        u = self.signal(x)
        whole = torch.eye(self.config.order, dtype=self.write.dtype, device=x.device)[None]  # m is read as it is
        m, last = dense_lti_scan(u, self.transition, self.write, whole, state=state, mask=mask, reset=reset)
        return self.output(gelu(self.readout(m.flatten(2)) + self.hidden(x))), last

    def init_state(self, batch: int) -> Tensor:
        shape = batch, self.config.memories, self.config.order
        return self.output.weight.new_zeros(shape, dtype=accumulation_dtype(self.output.weight.dtype))

    def mixing_flops(self, length: int) -> int:
        """The recurrence."""
        return 2 * self.config.memories * self.config.order * (self.config.order + 1)
