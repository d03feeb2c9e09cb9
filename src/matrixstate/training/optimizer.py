"""AdamW with parameter groups, and the schedule of the learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import torch
from torch import nn

from matrixstate.errors import ConfigError, require
from matrixstate.layers.parameters import learning_rate_caps, without_weight_decay


@dataclass(frozen=True)
class RateConfig:
    """A factor on the learning rate of some parameters."""

    parameters: str
    """A name, or a pattern with * for any part of one, as in *.mixer.weight."""
    factor: float
    """Multiplies the learning rate, and with it the weight decay, which AdamW multiplies by the rate. 0: frozen."""

    def __post_init__(self) -> None:
        require((0 <= self.factor < math.inf, f"factor: expected 0 or more, got {self.factor}"))


class OptimizerOptions(Protocol):
    """The options that the optimizer reads; documented in `TrainingConfig`."""

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
    @property
    def rates(self) -> tuple[RateConfig, ...]: ...


def decayed_parameters(model: nn.Module) -> set[str]:
    """The names of the parameters with weight decay: those of two or more dimensions that no module exempts."""
    exempt = without_weight_decay(model)
    return {name for name, parameter in model.named_parameters() if parameter.ndim >= 2 and name not in exempt}


def rate_problems(model: nn.Module, rates: Sequence[RateConfig]) -> list[str]:
    """An error for every rate that matches no parameter of the model."""
    names = [name for name, _ in model.named_parameters()]
    return [
        f"training.rates.{i}.parameters: expected the name of a parameter, such as {names[-2]}, or one with * in it, "
        f"got {rate.parameters!r}"
        for i, rate in enumerate(rates)
        if not any(fnmatchcase(name, rate.parameters) for name in names)
    ]


def make_optimizer(model: nn.Module, config: OptimizerOptions) -> torch.optim.AdamW:
    """AdamW over all parameters that require gradients, fused, with weight decay on `decayed_parameters` only.

    Each group has a "factor", by which `set_rate` multiplies its learning rate. If several `config.rates` match a
    parameter, the first one applies. For one that none matches the factor is 1, or what lowers the peak of its rate to
    the `learning_rate_caps` of its module.

    Raises:
        ConfigError: a rate that matches no parameter.
    """
    problems = rate_problems(model, config.rates)
    if problems:
        raise ConfigError(problems)
    decayed, caps = decayed_parameters(model), learning_rate_caps(model)
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}  # (has weight decay, factor) -> parameters
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            capped = min(1.0, caps.get(name, math.inf) / config.learning_rate)
            factor = next((rate.factor for rate in config.rates if fnmatchcase(name, rate.parameters)), capped)
            groups.setdefault((name in decayed, factor), []).append(parameter)
    options = [
        {"params": parameters, "weight_decay": config.weight_decay if is_decayed else 0.0, "factor": factor}
        for (is_decayed, factor), parameters in groups.items()
    ]
    return torch.optim.AdamW(options, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of every group of `make_optimizer` to `rate` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


def learning_rate(config: OptimizerOptions, step: int) -> float:
    """The learning rate of a step, counted from 0: linear warm-up to the peak, then a cosine to its final share."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1)))
    return config.learning_rate * (config.final_share + (1 - config.final_share) * cosine)
