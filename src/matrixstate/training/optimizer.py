"""AdamW with two groups of parameters, and the learning rate over time."""

import math
from typing import Protocol

import torch
from torch import nn


class OptimizerOptions(Protocol):
    """What the optimizer asks of a config; the fields are explained in `TrainingConfig`."""

    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def final_share(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def beta1(self) -> float: ...
    @property
    def beta2(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay acts on a parameter: on matrices that no layer has marked otherwise."""
    return parameter.ndim >= 2 and not getattr(parameter, "no_weight_decay", False)


def make_optimizer(model: nn.Module, config: OptimizerOptions) -> torch.optim.AdamW:
    """AdamW over all parameters, decay on matrices only."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if decays(p)], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if not decays(p)], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.learning_rate, betas=betas, fused=True)


def learning_rate(config: OptimizerOptions, step: int) -> float:
    """The rate of a step, counted from 0: a linear rise over the warm-up, then a cosine down to the final share."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1)))
    return config.learning_rate * (config.final_share + (1 - config.final_share) * cosine)
