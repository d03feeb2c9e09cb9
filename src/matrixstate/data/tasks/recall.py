"""Tasks that ask for what was seen: recall by key, copying, induction."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from matrixstate.data.tasks.task import IGNORE, Ints, TaskConfig
from matrixstate.errors import ConfigError, require


@dataclass(frozen=True)
class MQARConfig(TaskConfig):
    """Multi-query associative recall: pairs of key and value, then the keys again, each asking for its value.

    Keys are the tokens from 1 below half the vocabulary, unique in a sequence; values those above. The queries lie at
    even steps after the pairs, at distances that follow a power law; a step between is token 0 or random.
    Source: Arora et al., "Zoology", and its code's defaults.
    """

    prefix: ClassVar[bool] = False

    symbols: int = 8192
    """Number of tokens; half of them are keys."""
    pairs: int = 8
    """Pairs per sequence, each asked for once."""
    power: float = 0.01
    """Exponent a of the distances, with probability proportional to a d^(a-1)."""
    random_filler: bool = True
    """Fill the steps between with random tokens; else with token 0."""

    def __post_init__(self) -> None:
        require(
            (self.symbols >= 4, f"symbols: expected at least 4, got {self.symbols}"),
            (
                1 <= self.pairs <= self.symbols // 2 - 1,
                f"pairs: expected 1 to {self.symbols // 2 - 1}, the number of keys, got {self.pairs}",
            ),
            (self.power > 0, f"power: expected a positive number, got {self.power}"),
        )

    @property
    def vocabulary(self) -> int:
        return self.symbols

    @property
    def chance(self) -> float:
        return 1 / self.pairs  # any value that was seen

    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        context, half = 2 * self.pairs, self.symbols // 2
        places = (length - context) // 2
        if places < self.pairs:
            raise ConfigError(f"length: expected at least {4 * self.pairs} for {self.pairs} pairs, got {length}")
        keys = 1 + _choices(random, batch, self.pairs, np.ones(half - 1))
        values = half + _choices(random, batch, self.pairs, np.ones(self.symbols - half))
        weights = self.power * np.arange(1, places + 1) ** (self.power - 1)
        asked = context + 2 * _choices(random, batch, self.pairs, weights)
        shape = (batch, length)
        tokens = random.integers(0, self.symbols, size=shape) if self.random_filler else np.zeros(shape, dtype=np.int64)
        tokens[:, 0:context:2], tokens[:, 1:context:2] = keys, values
        np.put_along_axis(tokens, asked, keys, axis=1)
        targets = np.full(shape, IGNORE)
        np.put_along_axis(targets, asked, values, axis=1)
        return tokens, targets


def _choices(random: np.random.Generator, rows: int, number: int, weights: np.ndarray) -> Ints:
    """Per row, `number` different indices, drawn one after another with these weights (by Gumbel's trick)."""
    scores = np.log(weights) + random.gumbel(size=(rows, len(weights)))
    chosen = np.argpartition(-scores, number - 1, axis=1)[:, :number]
    order = np.argsort(-np.take_along_axis(scores, chosen, axis=1), axis=1)
    return np.take_along_axis(chosen, order, axis=1)


@dataclass(frozen=True)
class SelectiveCopyingConfig(TaskConfig):
    """Data tokens at random places among noise; then as many steps of token 1 ask for them in order.

    Tokens: 0 noise, 1 the question, the rest data. Source: Gu and Dao, "Mamba", section on synthetic tasks.
    """

    prefix: ClassVar[bool] = False

    symbols: int = 16
    """Number of tokens."""
    items: int = 16
    """Data tokens per sequence."""

    def __post_init__(self) -> None:
        require(
            (self.symbols >= 4, f"symbols: expected at least 4, got {self.symbols}"),
            (self.items >= 1, f"items: expected at least 1, got {self.items}"),
        )

    @property
    def vocabulary(self) -> int:
        return self.symbols

    @property
    def chance(self) -> float:
        return 1 / (self.symbols - 2)

    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        room = length - self.items
        if room < self.items:
            raise ConfigError(f"length: expected at least {2 * self.items} for {self.items} items, got {length}")
        data = random.integers(2, self.symbols, size=(batch, self.items))
        places = np.sort(_choices(random, batch, self.items, np.ones(room)), axis=1)
        tokens = np.zeros((batch, length), dtype=np.int64)
        np.put_along_axis(tokens, places, data, axis=1)
        tokens[:, room:] = 1
        targets = np.full((batch, length), IGNORE)
        targets[:, room:] = data
        return tokens, targets


@dataclass(frozen=True)
class InductionHeadsConfig(TaskConfig):
    """A marker somewhere, a token behind it; the marker again at the end asks which token that was.

    Tokens: 0 the marker, the rest random. Source: Gu and Dao, "Mamba", section on synthetic tasks.
    """

    prefix: ClassVar[bool] = False

    symbols: int = 16
    """Number of tokens."""

    def __post_init__(self) -> None:
        require((self.symbols >= 3, f"symbols: expected at least 3, got {self.symbols}"))

    @property
    def vocabulary(self) -> int:
        return self.symbols

    @property
    def chance(self) -> float:
        return 1 / (self.symbols - 1)

    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        if length < 3:
            raise ConfigError(f"length: expected at least 3 for induction heads, got {length}")
        tokens = random.integers(1, self.symbols, size=(batch, length))
        rows, places = np.arange(batch), random.integers(0, length - 2, size=batch)
        tokens[rows, places] = 0
        tokens[:, -1] = 0
        targets = np.full((batch, length), IGNORE)
        targets[:, -1] = tokens[rows, places + 1]
        return tokens, targets
