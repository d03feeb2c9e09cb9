"""Linear CDE: a state that the token multiplies by a matrix near the identity, linear in the token."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matrixstate.errors import require
from matrixstate.layers.linear import Linear
from matrixstate.layers.mixer import About, MixerConfig, at_least, make_config, positive
from matrixstate.layers.projection import projection
from matrixstate.mixers.matrix.row_mixer import RowMixer
from matrixstate.ops import accumulation_dtype


@dataclass(frozen=True)
class LinearCDEConfig(MixerConfig):
    """h_t = h_{t-1} (I + Δ (A_0 + Σ_i x_ti A_i)), y_t = W h_t; at the first token of a document h = W_0 x + b.

    Euler's steps of the linear controlled differential equation dh = h Σ_i A_i dX^i, whose solution is a linear map of
    the path's signature. A_i is block-diagonal, a block of order d per head: one head is the dense model, order 1 the
    diagonal one, which is less expressive. With `rank` a block is diag(a(x)) + U(x) V(x)ᵀ, all linear in x.
    Source: Cirone et al. 2024, "Theoretical Foundations of Deep Selective State-Space Models".
    """

    about: ClassVar[About] = About(
        recurrence="h = h (I + dt A(x)), A linear in x, a block per head; h = W_0 x at the first token; y = h",
        state="heads x order",
        op="matrix_scan",
        source="Cirone et al. 2024, arXiv:2402.19047",
        forms=("parallel", "step"),
    )

    heads: int = 8
    """Blocks of A."""
    order: int = 8
    """d, the order of a block."""
    rank: int | None = None
    """Columns of U and V. Default: full matrices."""
    step: float = 1 / 40
    """Δ, the step of time."""

    def __post_init__(self) -> None:
        require(*at_least(1, self, "heads", "order", *(["rank"] if self.rank is not None else [])))
        require(*positive(self, "step"))

    def make(self, width: int) -> "LinearCDE":
        return LinearCDE(width, self)


class LinearCDE(RowMixer):
    """The mixer of `LinearCDEConfig`. Elements of each A_i start with variance 1/d, W_0 as `torch.nn.Linear`."""

    config: LinearCDEConfig

    def __init__(self, width: int, config: LinearCDEConfig | None = None, **options: Any) -> None:
        config = make_config(LinearCDEConfig, width, config, options)
        super().__init__()
        self.config, self.width = config, width
        H, d, rank = config.heads, config.order, config.rank
        self.start = Linear(width, H * d)
        self.fields = Linear(width, H * d * (d if rank is None else 2 * rank + 1))
        # of a product of U and V, linear in x each, the variance is that of the full matrix at x of length 1
        std = d**-0.5 if rank is None else (d * rank) ** -0.25
        torch.nn.init.normal_(self.fields.weight, std=std)
        torch.nn.init.normal_(self.fields.bias, std=std)
        self.output = projection(config.heads * config.order, width)

    def matrices(self, x: Tensor) -> Tensor:
        H, d, rank = self.config.heads, self.config.order, self.config.rank
        field = self.fields(x).unflatten(-1, (H, d, -1))
        field = field.to(accumulation_dtype(field.dtype))  # before the identity is added, which hides small numbers
        if rank is not None:
            diagonal, U, V = field.split((1, rank, rank), dim=-1)
            field = torch.diag_embed(diagonal.squeeze(-1)) + U @ V.mT
        return torch.eye(d, dtype=field.dtype, device=field.device) + self.config.step * field

    def writes(self, x: Tensor, A: Tensor, begins: Tensor) -> Tensor:
        h = self.start(x).unflatten(-1, (self.config.heads, 1, self.config.order))
        return torch.where(begins[..., None, None, None], h, 0)
