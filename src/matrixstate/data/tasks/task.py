"""The base of all synthetic tasks: a frozen config that draws sequences and their exact answers."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matrixstate.errors import require, seed_checks

Ints = NDArray[np.int64]

IGNORE = -100
"""The target of a step at which nothing is asked; PyTorch's `cross_entropy` leaves it out."""


@dataclass(frozen=True)
class TaskConfig(ABC):
    """Sequences of tokens with exact answers. Tokens and answers share the numbers below `vocabulary`."""

    prefix: ClassVar[bool] = True
    """Whether the first n steps of a sequence are themselves one of length n, so that one pass holds every length."""

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """Number of different tokens and answers."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy of guessing uniformly among the answers."""

    @abstractmethod
    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        """Tokens and targets, [batch, length] each; targets are `IGNORE` where nothing is asked.

        Raises ConfigError for a length at which the task does not exist.
        """

    def at(self, seed: int, step: int, batch: int, length: int) -> tuple[Tensor, Tensor]:
        """Tokens and targets of a step, [batch, length] int64 each: a pure function of its arguments; seed >= 0."""
        require(*seed_checks(seed))
        tokens, targets = self.sample(np.random.default_rng([seed, step]), batch, length)
        return torch.from_numpy(tokens), torch.from_numpy(targets)
