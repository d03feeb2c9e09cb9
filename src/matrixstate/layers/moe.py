"""A mixture of experts: many feed-forward layers, of which every token uses the few that a router picks."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mlp import MLP, FeedForward, MLPConfig
from matrixstate.layers.projection import projection
from matrixstate.ops._checks import full_precision


@dataclass(frozen=True)
class MoEConfig(MLPConfig):
    """y = sum of p_e MLP_e(x) over the `active` experts e whose probabilities p = softmax(R x) are largest.

    `hidden` and `activation` are each expert's. The router learns to spread tokens by a loss that training adds:
    `balance` · E sum_e f_e P_e per layer, with f_e the share of picks that fall on e and P_e its mean probability, over
    all steps, padded ones too.
    Sources: Shazeer et al. 2017; the loss: Fedus et al. 2021, "Switch Transformers"; the shared expert: DeepSeekMoE.
    """

    experts: int = 8
    """E, the number of experts."""
    active: int = 2
    """How many of them a token uses."""
    shared: int = 0
    """Hidden channels of one more MLP that every token uses. 0: none."""
    normalise: bool = True
    """Divide the p of the experts used by their sum."""
    balance: float = 1e-3
    """Weight of the balancing loss, which is 1 for perfect balance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.experts > 0, f"experts: expected at least 1, got {self.experts}"),
            (
                0 < self.active <= max(self.experts, 1),
                f"active: expected 1 to {self.experts} experts, got {self.active}",
            ),
            (self.shared >= 0, f"shared: expected 0 or more, got {self.shared}"),
            (self.balance >= 0, f"balance: expected 0 or more, got {self.balance}"),
        )

    def make(self, width: int) -> "MoE":
        """The layer for inputs of `width` channels."""
        return MoE(self, width)


class Experts(nn.Module):
    """One linear map per expert, weight [E, inputs, outputs], normal with standard deviation 0.02, no bias."""

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, inputs, outputs).normal_(std=0.02))


class MoE(FeedForward):
    """The layer of `MoEConfig`: x [..., width] -> [..., width].

    Tokens are sorted by expert and each expert multiplies its own at once, so the cost is that of `active` experts. How
    many tokens an expert gets is known only at run time, so torch.compile needs a graph break here.
    """

    def __init__(self, config: MoEConfig, width: int) -> None:
        super().__init__()
        before, after = config.sizes(width)
        self.config = config
        self.router = projection(width, config.experts)
        self.input = Experts(config.experts, width, before)
        self.output = Experts(config.experts, after, width)
        self.shared = MLP(MLPConfig(config.shared, config.activation), width) if config.shared else None
        self.balance_loss: Tensor | None = None
        """Of the last forward pass in training, weighted; None after one in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        weights, picks = self._route(tokens)
        k = self.config.active
        order = picks.flatten().argsort(stable=True)  # by expert, then by token
        token = order // k
        counts = picks.flatten().bincount(minlength=self.config.experts)
        groups = tokens[token].split(counts.tolist())
        experts = zip(groups, self.input.weight, self.output.weight, strict=True)
        out = torch.cat([self.config.activate(group @ into) @ back for group, into, back in experts])
        y = torch.zeros_like(tokens, dtype=weights.dtype)
        y = y.index_add(0, token, out.to(weights.dtype) * weights.flatten()[order, None]).view(x.shape)
        return y if self.shared is None else y + self.shared(x)

    def _route(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [N, width] -> weights and experts of each token's picks [N, k]; keeps the balancing loss."""
        with full_precision(tokens):  # a pick must not hang on the rounding of autocast
            p = self.router(tokens.to(self.router.weight.dtype)).softmax(dim=-1)
        weights, picks = p.topk(self.config.active, dim=-1)
        self.balance_loss = None
        if self.training and len(tokens):
            share = picks.flatten().bincount(minlength=self.config.experts).to(p.dtype) / picks.numel()
            self.balance_loss = self.config.balance * self.config.experts * (share * p.mean(dim=0)).sum()
        if self.config.normalise:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights, picks

    def __getstate__(self) -> dict[str, Any]:
        """For copies, which have made no forward pass: the graph of the loss cannot be copied."""
        return {**self.__dict__, "balance_loss": None}

    def last_weights(self) -> list[Tensor]:
        return [self.output.weight, *([] if self.shared is None else self.shared.last_weights())]

    @property
    def idle_parameters(self) -> int:
        """Parameters of the experts that a token does not use."""
        each = (self.input.weight.numel() + self.output.weight.numel()) // self.config.experts
        return each * (self.config.experts - self.config.active)
