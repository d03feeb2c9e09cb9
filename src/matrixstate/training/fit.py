"""Checks of a model against the options of its training, before anything is written."""

from collections.abc import Mapping, Sequence

import torch

from matrixstate.errors import ConfigError
from matrixstate.models import LanguageModel, ModelConfig
from matrixstate.training.optimizer import RateConfig, rate_problems


def expect_fit(model: ModelConfig, rates: Sequence[RateConfig], lengths: Mapping[str, int]) -> None:
    """Raises ConfigError for rates of parameters that a model does not have and lengths beyond its learned positions.

    Args:
        model: a config that names its vocabulary. No weights are allocated.
        rates: `TrainingConfig.rates`.
        lengths: the option that asks for a length -> that length in steps.
    """
    with torch.device("meta"):  # names and shapes only
        made = LanguageModel(model)
    limit = made.max_positions
    long = [(key, length) for key, length in lengths.items() if limit is not None and length > limit]
    problems = rate_problems(made, rates)
    problems += [f"{key}: expected at most {limit}, the learned positions, got {length}" for key, length in long]
    if problems:
        raise ConfigError(problems)
