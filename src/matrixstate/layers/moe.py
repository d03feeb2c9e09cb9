"""A mixture of experts: many MLPs, of which a router selects a few for every token."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matrixstate.errors import require
from matrixstate.layers.mlp import MLP, FeedForward, MLPConfig
from matrixstate.layers.router import Router


@dataclass(frozen=True)
class MoEConfig(MLPConfig):
    """y = sum of p_e MLP_e(x) over the `active` experts e with the largest probabilities p = softmax(R x).

    `hidden` and `activation` are those of each expert. Training adds a load-balancing loss per layer,
    `balance` · E sum_e f_e P_e, with f_e the fraction of assignments that go to expert e and P_e its mean probability,
    both over all steps including padded ones.
    Sources: Shazeer et al. 2017; the loss: Fedus et al. 2021, "Switch Transformers"; the shared expert: DeepSeekMoE.
    """

    experts: int = 8
    """E, the number of experts."""
    active: int = 2
    """Experts per token."""
    shared: int = 0
    """Hidden channels of a shared MLP that every token uses as well. 0: none."""
    normalise: bool = True
    """Divide the probabilities of a token's experts by their sum."""
    balance: float = 1e-3
    """Weight of the load-balancing loss, which without the weight is 1 at perfect balance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (self.experts > 0, f"experts: expected at least 1, got {self.experts}"),
            (
                0 < self.active <= max(self.experts, 1),
                f"active: expected 1 to {self.experts} experts, got {self.active}",
            ),
            (self.shared >= 0, f"shared: expected 0 or more, got {self.shared}"),
            (not self.bias, "bias: expected False, for experts have no biases, got True"),
            (self.balance >= 0, f"balance: expected 0 or more, got {self.balance}"),
        )

    def make(self, width: int) -> "MoE":
        """A mixture of experts for inputs of `width` channels."""
        return MoE(self, width)


class Experts(nn.Module):
    """The weights of one linear map per expert, [E, inputs, outputs], normal with standard deviation 0.02, no bias."""

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, inputs, outputs).normal_(std=0.02))


class MoE(FeedForward):
    """The mixture of experts of `MoEConfig`: x [..., width] -> [..., width].

    Cost: that of `active` experts per token, for tokens are grouped by expert. The sizes of the groups depend on data,
    so torch.compile breaks the graph here and refuses `fullgraph=True`.
    """

    def __init__(self, config: MoEConfig, width: int) -> None:
        super().__init__()
        before, after = config.sizes(width)
        self.config = config
        self.router = Router(width, config.experts, config.active, normalise=config.normalise, balance=config.balance)
        self.input = Experts(config.experts, width, before)
        self.output = Experts(config.experts, after, width)
        self.shared = MLP(MLPConfig(config.shared, config.activation), width) if config.shared else None

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        weights, picks = self.router.pick(tokens)
        k = self.config.active
        # group the tokens by expert, apply each expert to its group, and sum the results per token
        order = picks.flatten().argsort(stable=True)  # by expert, then by token
        token = order // k
        counts = picks.flatten().bincount(minlength=self.config.experts)
        groups = tokens[token].split(counts.tolist())
        experts = zip(groups, self.input.weight, self.output.weight, strict=True)
        out = torch.cat([self.config.activate(group @ into) @ back for group, into, back in experts])
        y = torch.zeros_like(tokens, dtype=weights.dtype)
        y = y.index_add(0, token, out.to(weights.dtype) * weights.flatten()[order, None]).view(x.shape)
        return y if self.shared is None else y + self.shared(x)

    @property
    def balance_loss(self) -> Tensor | None:
        """The weighted load-balancing loss of the last forward pass in training mode; None after one in evaluation."""
        return self.router.balance_loss

    def last_weights(self) -> list[Tensor]:
        return [self.output.weight, *([] if self.shared is None else self.shared.last_weights())]

    @property
    def idle_parameters(self) -> int:
        """Parameters of the experts that a given token does not use."""
        each = (self.input.weight.numel() + self.output.weight.numel()) // self.config.experts
        return each * (self.config.experts - self.config.active)
