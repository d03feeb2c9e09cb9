"""Whether a training asks a model only for what it has, found out before anything is written."""

from collections.abc import Mapping, Sequence

import torch

from matrixstate.errors import ConfigError
from matrixstate.models import LanguageModel, ModelConfig
from matrixstate.training.optimizer import RateConfig, rate_problems


def expect_fit(model: ModelConfig, rates: Sequence[RateConfig], lengths: Mapping[str, int]) -> None:
    """Raises ConfigError for rates of parameters that a model does not have and lengths beyond its learned positions.

    Args:
        model: names its vocabulary; none of its weights is made.
        rates: of the training.
        lengths: option -> steps of the sequences that it asks for.
    """
    with torch.device("meta"):  # for the names and shapes alone
        made = LanguageModel(model)
    limit = made.max_positions
    long = [(key, length) for key, length in lengths.items() if limit is not None and length > limit]
    problems = rate_problems(made, rates)
    problems += [f"{key}: expected at most {limit}, the learned positions, got {length}" for key, length in long]
    if problems:
        raise ConfigError(problems)
