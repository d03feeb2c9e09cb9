"""The word problem of a finite group: after every element, what is the product so far?"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from matrixstate.data.tasks.groups import Group, group
from matrixstate.data.tasks.task import Ints, TaskConfig
from matrixstate.errors import require


@dataclass(frozen=True)
class WordProblemConfig(TaskConfig):
    """Tokens are elements g_t, independent and uniform; the answer at t is g_1 · ... · g_t.

    Source: Merrill, Petty and Sabharwal, "The illusion of state"; random generator sets as in PD-SSM.
    """

    group: str = "S3"
    """A name as in S3, A5, Z60, D4, Q8 or A4xZ5."""
    elements: Literal["all", "generators", "swaps"] = "all"
    """Which elements are tokens: all, or the identity with a few generators, or with all transpositions (S)."""
    tokens: int | None = None
    """With generators: number of tokens: the generators and other random elements, possibly the identity."""

    def __post_init__(self) -> None:
        found = group(self.group)
        require(
            (
                self.elements != "swaps" or bool(found.swaps),
                f"elements: expected all or generators, for {self.group} knows no swaps, got swaps",
            ),
            (
                self.tokens is None or self.elements == "generators",
                f"tokens: expected none where elements is {self.elements}, got {self.tokens}",
            ),
            (
                self.tokens is None or len(found.generators) <= self.tokens <= found.order,
                f"tokens: expected {len(found.generators)} to {found.order} for {self.group}, got {self.tokens}",
            ),
        )

    @property
    def vocabulary(self) -> int:
        return group(self.group).order

    @property
    def chance(self) -> float:
        return 1 / group(self.group).order

    def alphabet(self) -> Ints:
        """The elements that occur as tokens."""
        found = group(self.group)
        if self.elements == "all":
            return np.arange(found.order)
        if self.elements == "swaps":
            return np.array((0, *found.swaps))
        if self.tokens is None:
            return np.array((0, *found.generators))
        others = np.setdiff1d(np.arange(found.order), found.generators)
        drawn = np.random.default_rng(self.tokens).permutation(others)[: self.tokens - len(found.generators)]
        return np.sort(np.concatenate([np.array(found.generators, dtype=np.int64), drawn]))

    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        alphabet = self.alphabet()
        tokens = alphabet[random.integers(0, len(alphabet), size=(batch, length))]
        return tokens, running_products(group(self.group), tokens)


def running_products(group: Group, tokens: Ints) -> Ints:
    """g_1 · ... · g_t for every t: [B, T] -> [B, T]."""
    products = np.empty_like(tokens)
    state = np.zeros(len(tokens), dtype=np.int64)
    for t in range(tokens.shape[1]):
        state = group.table[state, tokens[:, t]]
        products[:, t] = state
    return products
