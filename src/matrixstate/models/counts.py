"""Counts of a model's parameters, bytes of state and FLOPs, made on the meta device without allocating memory."""

from dataclasses import dataclass

import torch
from torch import nn

from matrixstate.layers.moe import Experts, MoE
from matrixstate.models.config import ModelConfig
from matrixstate.models.lm import LanguageModel


@dataclass(frozen=True)
class Counts:
    """Sizes of a model, for sequences of a given length."""

    parameters: int
    """All parameters; tied weights count once."""
    parameters_without_embeddings: int
    """Parameters without the token and position embeddings and the output matrix."""
    active_parameters: int
    """`parameters_without_embeddings` without those of experts that a token does not use."""
    state_bytes: int
    """Bytes of one sequence's state after `length` tokens."""
    flops_per_token: int
    """FLOPs of the forward pass per token, two per multiply-add: weight matrices, recurrences, attention. The backward
    pass takes twice as many."""


def count(config: ModelConfig, length: int) -> Counts:
    """Counts of the model of `config` for sequences of `length` tokens."""
    with torch.device("meta"):
        model = LanguageModel(config)
    tables = {id(p): p.numel() for p in (model.embedding.weight, model.head.weight)}  # one entry where they are tied
    tables |= {} if model.positions is None else {id(model.positions): model.positions.numel()}
    total = sum(p.numel() for p in model.parameters())
    mixers = [block.mixer for block in model.layers if block.mixer is not None]
    matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear | Experts))
    idle = sum(m.idle_parameters for m in model.modules() if isinstance(m, MoE))
    return Counts(
        parameters=total,
        parameters_without_embeddings=total - sum(tables.values()),
        active_parameters=total - sum(tables.values()) - idle,
        state_bytes=sum(mixer.state_bytes(length) for mixer in mixers),
        flops_per_token=2 * (matrices - idle) + sum(mixer.mixing_flops(length) for mixer in mixers),
    )
