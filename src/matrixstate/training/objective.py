"""The loss that training minimises."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from matrixstate.data import Batch
from matrixstate.data.tasks import IGNORE
from matrixstate.models import LanguageModel


def compute_loss(model: LanguageModel, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The mean loss of a batch in nats per token, and what is added to it for the balance of experts, if there are any.

    Args:
        model: which has just computed `logits` [B, T, vocabulary].

    The loss is in float32, whatever the dtype of the logits, or in float64.
    """
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    loss = cross_entropy(logits.flatten(0, 1).to(dtype), batch.targets.flatten(), ignore_index=IGNORE)
    return loss, model.auxiliary_loss()


def compute_accuracy(answers: Tensor, batch: Batch) -> Tensor:
    """The share of right `answers` [B, T] at the positions that have a target, as a float32 scalar on their device."""
    has_target = batch.targets != IGNORE
    return ((answers == batch.targets) & has_target).sum().float() / has_target.sum()
