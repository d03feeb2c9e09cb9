"""The router of mixtures: picks a few of several parts for every token, with a loss that balances their use."""

from typing import Any

import torch
from torch import Tensor, nn

from matrixstate.layers.linear import Linear
from matrixstate.ops._checks import full_precision


class Router(Linear):
    """The `active` of E parts with the largest probabilities p = softmax(R x), weighted by them.

    In training mode a load-balancing loss is kept for the model: `balance` · E sum_e f_e P_e, with f_e the fraction of
    assignments that go to part e and P_e its mean probability, both over all tokens.

    Args:
        width: channels of a token.
        parts: E.
        active: parts per token.
        normalise: divide the probabilities of a token's parts by their sum.
        balance: weight of the loss, which without the weight is 1 at perfect balance.

    R starts normal with standard deviation 0.02. Sources: Shazeer et al. 2017; the loss: Fedus et al. 2021, "Switch
    Transformers".
    """

    def __init__(self, width: int, parts: int, active: int, *, normalise: bool = True, balance: float = 0.0) -> None:
        super().__init__(width, parts, bias=False)
        nn.init.normal_(self.weight, std=0.02)
        self.parts, self.active, self.normalise, self.balance = parts, active, normalise, balance
        self.balance_loss: Tensor | None = None
        """The weighted load-balancing loss of the last forward pass in training mode; None after one in evaluation."""

    def pick(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [N, width] -> weights [N, active] and indices [N, active] of each token's parts."""
        with full_precision(tokens):  # the choice of parts should not depend on the rounding of autocast
            p = self(tokens.to(self.weight.dtype)).softmax(dim=-1)
        weights, picks = p.topk(self.active, dim=-1)
        self.balance_loss = None
        if self.training and len(tokens):
            share = torch.zeros_like(p).scatter(-1, picks, 1).sum(dim=0) / picks.numel()
            self.balance_loss = self.balance * self.parts * (share * p.mean(dim=0)).sum()
        return weights / weights.sum(dim=-1, keepdim=True) if self.normalise else weights, picks

    def __getstate__(self) -> dict[str, Any]:
        """The state of copies, without the loss, whose autograd graph cannot be copied."""
        return {**self.__dict__, "balance_loss": None}
