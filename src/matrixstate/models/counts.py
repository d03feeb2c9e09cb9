"""Parameters, state and arithmetic of a model, counted without allocating it."""

from dataclasses import dataclass

import torch
from torch import nn

from matrixstate.layers.moe import Experts, MoE
from matrixstate.models.config import ModelConfig
from matrixstate.models.lm import LanguageModel


@dataclass(frozen=True)
class Counts:
    """The size of a model over sequences of some length."""

    parameters: int
    """All of them; a tied embedding counts once."""
    parameters_without_embeddings: int
    """Without token and position tables and the output matrix."""
    active_parameters: int
    """Those without embeddings that act on a token: not of experts that it does not use."""
    state_bytes: int
    """Bytes that one sequence's state holds after `length` tokens."""
    flops_per_token: int
    """Forward pass, two per multiply-add: weight matrices, recurrences, attention. Backward costs twice as much."""


def count(config: ModelConfig, length: int) -> Counts:
    """Counts of the model of `config` over sequences of `length` tokens."""
    with torch.device("meta"):
        model = LanguageModel(config)
    tables = {id(p): p.numel() for p in (model.embedding.weight, model.head.weight)}
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
