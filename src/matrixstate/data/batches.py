"""Batches that are a pure function of (seed, step), so that a run can resume at any step."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from matrixstate.data.corpus import Tokens
from matrixstate.errors import DataError


@dataclass(frozen=True)
class RandomWindows:
    """Windows of consecutive tokens, starting at random positions of a text."""

    tokens: Tokens
    sequence: int  # T
    batch: int  # B
    seed: int

    def __post_init__(self) -> None:
        if len(self.tokens) <= self.sequence:
            raise DataError(
                f"batches: sequence must be shorter than the training text of {len(self.tokens)} tokens, "
                f"got {self.sequence}"
            )

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step, [B, T] int64 each; targets are the inputs one token later."""
        random = np.random.default_rng([self.seed, step])
        starts = random.integers(0, len(self.tokens) - self.sequence, size=self.batch)
        rows = np.stack([self.tokens[start : start + self.sequence + 1] for start in starts]).astype(np.int64)
        windows = torch.from_numpy(rows)
        return windows[:, :-1], windows[:, 1:]
