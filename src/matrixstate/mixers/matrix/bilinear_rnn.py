"""Bilinear RNN: the state is multiplied by a matrix that is linear in the token, and nothing is added."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mixer import (
    About,
    Mixer,
    MixerConfig,
    StateMatrices,
    at_least,
    check_inputs,
    make_config,
    one_of,
)
from matrixstate.layers.projection import projection
from matrixstate.ops import ScaledState, accumulation_dtype, scaled_matrix_scan


@dataclass(frozen=True)
class BilinearRNNConfig(MixerConfig):
    """h_t = h_{t-1} A(x_t), y_t = W h_t / |h_t|, with A linear in x_t and block-diagonal: a block of order d per head.

    h_0 is learned. A is full, A_ij = Σ_k W_ijk x_k; of a CP form, W_1 diag(W_3 x) W_2; or, of order 2, a rotation times
    a factor. One head of order d is the dense model, heads of order 1 the diagonal one. The map is homogeneous in h, so
    its length carries nothing and is divided out. Source: Ebrahimi & Memisevic 2025, "Revisiting Bi-Linear State
    Transitions in Recurrent Neural Networks".
    """

    about: ClassVar[About] = About(
        recurrence="h = h A(x), A linear in x, a block per head: full, CP-factored, rotation or diagonal; y = h / |h|",
        state="heads x order x order, and an exponent per head",
        op="scaled_matrix_scan",
        source="Ebrahimi & Memisevic 2025, arXiv:2505.21749",
        forms=("parallel", "step"),
    )

    heads: int = 4
    """Blocks of A."""
    order: int = 8
    """d, the order of a block; 1 is a diagonal A, and a rotation has 2."""
    form: Literal["full", "cp", "rotation"] = "full"
    """How a block depends on the token."""
    rank: int = 8
    """Of the CP form: columns of W_1."""

    def __post_init__(self) -> None:
        require(
            *at_least(1, self, "heads", "order", "rank"),
            one_of(self, "form", "full", "cp", "rotation"),
            (self.form != "rotation" or self.order == 2, f"order: expected 2 for rotations, got {self.order}"),
        )

    def make(self, width: int) -> "BilinearRNN":
        return BilinearRNN(width, self)


class BilinearRNN(Mixer):
    """The mixer of `BilinearRNNConfig`. State: the product of the A so far, a `ScaledState` [B, H, d, d].

    At initialisation weights are normal, with variances by which A keeps the length of a vector on average for inputs
    of variance 1; h_0 is normal.
    """

    no_weight_decay = ("start",)

    def __init__(self, width: int, config: BilinearRNNConfig | None = None, **options: Any) -> None:
        super().__init__()
        config = make_config(BilinearRNNConfig, width, config, options)
        H, d, rank = config.heads, config.order, config.rank
        self.config, self.width = config, width
        self.start = nn.Parameter(torch.randn(H, d))
        if config.form == "cp":
            self.left = nn.Parameter(torch.randn(H, d, rank) / math.sqrt(d))
            self.right = nn.Parameter(torch.randn(H, rank, d) / math.sqrt(rank))
        outputs = {"full": d * d, "cp": rank, "rotation": 2}[config.form]
        std = 1 / math.sqrt(width * (1 if config.form == "cp" else d))
        self.inputs = projection(width, H * outputs, std)
        self.output = projection(H * d, width)

    def forward(
        self, x: Tensor, state: ScaledState | None = None, *, mask: Tensor | None = None, reset: Tensor | None = None
    ) -> tuple[Tensor, ScaledState]:
        x, reset = check_inputs("BilinearRNN", x, self.width, mask, reset)
        A = self.matrices(x)
        if mask is not None:
            A = torch.where(
                mask[..., None, None, None], A, torch.eye(self.config.order, device=A.device, dtype=A.dtype)
            )
        product, log_scale, state = scaled_matrix_scan(A, state, reset=reset)
        wide = log_scale.dtype
        h = torch.einsum("hi,bthij->bthj", self.start.to(wide), product.to(wide))
        # the heads' lengths relative to the largest, which is a constant: only the direction of all of h is read
        h = (h * torch.exp(log_scale - log_scale.detach().amax(-1, keepdim=True))[..., None]).flatten(2)
        h = h * torch.rsqrt(h.square().mean(-1, keepdim=True).clamp(min=torch.finfo(wide).tiny))
        return self.output(h.to(x.dtype)), state

    def matrices(self, x: Tensor) -> Tensor:
        """A(x) [B, T, H, d, d]."""
        H, d = self.config.heads, self.config.order
        z = self.inputs(x).unflatten(-1, (H, -1))
        if self.config.form == "full":
            return z.unflatten(-1, (d, d))
        if self.config.form == "cp":
            return torch.einsum("hir,bthr,hrj->bthij", self.left.to(z.dtype), z, self.right.to(z.dtype))
        a, b = z.unbind(-1)
        return torch.stack([torch.stack([a, b], dim=-1), torch.stack([-b, a], dim=-1)], dim=-2)

    def init_state(self, batch: int) -> ScaledState:
        H, d, weight = self.config.heads, self.config.order, self.output.weight
        identity = torch.eye(d, dtype=accumulation_dtype(weight.dtype), device=weight.device)
        exponent = torch.ones(batch, H, dtype=torch.int32, device=weight.device)  # the largest entry is below 1
        return ScaledState((identity / 2).repeat(batch, H, 1, 1), exponent)

    def state_matrices(self, state: ScaledState) -> StateMatrices | None:
        return StateMatrices(state.matrix, math.log(2) * state.exponent, product=True)

    def mixing_flops(self, length: int) -> int:
        """The products, and the read-out."""
        H, d = self.config.heads, self.config.order
        return 2 * H * d * d * (d + 1)
