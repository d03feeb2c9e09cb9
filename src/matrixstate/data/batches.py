"""Batches that are a pure function of (seed, step), so that a run can resume at any step."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from matrixstate.data.corpus import Tokens
from matrixstate.errors import DataError


class Batch(NamedTuple):
    """What one step trains on."""

    tokens: Tensor  # [B, T] int64
    targets: Tensor  # [B, T] int64; -100 where nothing is asked
    mask: Tensor | None = None  # [B, T] bool, False at padding; None: all real
    reset: Tensor | None = None  # [B, T] bool, True where a document starts; None: nowhere but at the first step

    def parts(self, count: int) -> "list[Batch]":
        """The same sequences in `count` batches of equal size, in order."""
        columns = [(None,) * count if x is None else x.chunk(count) for x in self]
        return [Batch(*part) for part in zip(*columns, strict=True)]  # pyright: ignore[reportArgumentType]


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

    def at(self, step: int) -> Batch:
        """The batch of a step; targets are the tokens one later."""
        random = np.random.default_rng([self.seed, step])
        starts = random.integers(0, len(self.tokens) - self.sequence, size=self.batch)
        rows = np.stack([self.tokens[start : start + self.sequence + 1] for start in starts]).astype(np.int64)
        windows = torch.from_numpy(rows)
        return Batch(windows[:, :-1], windows[:, 1:])
