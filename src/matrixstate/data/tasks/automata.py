"""Formal languages that a finite memory, or a stack of bounded depth, recognises.

Sources: Deletang et al., "Neural networks and the Chomsky hierarchy"; the rules of the xLSTM paper's generator.
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from matrixstate.data.tasks.task import IGNORE, Ints, TaskConfig
from matrixstate.errors import ConfigError, require


@dataclass(frozen=True)
class AutomatonConfig(TaskConfig):
    """A task whose answer exists after every step."""

    last_only: bool = field(default=False, kw_only=True)
    """Ask at the last step only, as the published tables train."""

    def _asked(self, targets: Ints) -> Ints:
        if self.last_only:
            targets[:, :-1] = IGNORE
        return targets


@dataclass(frozen=True)
class ParityConfig(AutomatonConfig):
    """Bits; the answer is whether the ones so far are odd in number."""

    @property
    def vocabulary(self) -> int:
        return 2

    @property
    def chance(self) -> float:
        return 1 / 2

    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        bits = random.integers(0, 2, size=(batch, length))
        return bits, self._asked(bits.cumsum(axis=1) % 2)


@dataclass(frozen=True)
class EvenPairsConfig(AutomatonConfig):
    """Bits; the answer is whether there were as many changes 01 as 10: whether the first bit equals the last."""

    @property
    def vocabulary(self) -> int:
        return 2

    @property
    def chance(self) -> float:
        return 1 / 2

    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        bits = random.integers(0, 2, size=(batch, length))
        return bits, self._asked((bits == bits[:, :1]).astype(np.int64))


@dataclass(frozen=True)
class CycleNavigationConfig(AutomatonConfig):
    """Moves on a cycle (0 stay, 1 forward, 2 back); the answer is the place."""

    places: int = 5
    """Length of the cycle."""

    def __post_init__(self) -> None:
        require((self.places >= 2, f"places: expected at least 2, got {self.places}"))

    @property
    def vocabulary(self) -> int:
        return max(self.places, 3)

    @property
    def chance(self) -> float:
        return 1 / self.places

    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        moves = random.integers(0, 3, size=(batch, length))
        steps = np.array([0, 1, -1])[moves]
        return moves, self._asked(steps.cumsum(axis=1) % self.places)


@dataclass(frozen=True)
class ModularArithmeticConfig(AutomatonConfig):
    """A sum of numbers and operators + - *, times before plus; the answer after every number is the value so far.

    Tokens: the numbers, then + - *. Even steps are numbers, odd ones operators, after which nothing is asked.
    """

    modulus: int = 5

    def __post_init__(self) -> None:
        require((self.modulus >= 2, f"modulus: expected at least 2, got {self.modulus}"))

    @property
    def vocabulary(self) -> int:
        return self.modulus + 3

    @property
    def chance(self) -> float:
        return 1 / self.modulus

    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        n = self.modulus
        tokens = random.integers(0, n, size=(batch, length))
        tokens[:, 1::2] = n + random.integers(0, 3, size=(batch, length // 2))
        targets = np.full_like(tokens, IGNORE)
        total, term = np.zeros(batch, dtype=np.int64), tokens[:, 0] if length else np.zeros(batch, dtype=np.int64)
        for t in range(0, length, 2):
            if t:
                operator, number = tokens[:, t - 1] - n, tokens[:, t]
                total = np.where(operator == 2, total, (total + term) % n)
                term = np.where(operator == 2, term * number, np.where(operator == 1, -number, number)) % n
            targets[:, t] = (total + term) % n
        if self.last_only and length:
            targets[:, : (length - 1) // 2 * 2] = IGNORE
        return tokens, targets


@dataclass(frozen=True)
class BracketArithmeticConfig(TaskConfig):
    """An expression of numbers, + - * and brackets, and then `=`, at which its value is asked.

    Tokens: the numbers, then + - * ( ) and =. Expressions are cut at random places down to single numbers, as Deletang
    et al. do, with a minus in front of a number where the length asks for it.
    """

    prefix: ClassVar[bool] = False

    modulus: int = 5

    def __post_init__(self) -> None:
        require((self.modulus >= 2, f"modulus: expected at least 2, got {self.modulus}"))

    @property
    def vocabulary(self) -> int:
        return self.modulus + 6

    @property
    def chance(self) -> float:
        return 1 / self.modulus

    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        if length < 2:
            raise ConfigError(f"length: expected at least 2 for bracket arithmetic, got {length}")
        tokens = np.empty((batch, length), dtype=np.int64)
        targets = np.full((batch, length), IGNORE)
        for row in range(batch):
            expression, value = self._expression(random, length - 1)
            tokens[row] = [*expression, self.modulus + 5]
            targets[row, -1] = value
        return tokens, targets

    def _expression(self, random: np.random.Generator, size: int) -> tuple[list[int], int]:
        """An expression of exactly `size` tokens that can stand anywhere, and its value."""
        n = self.modulus
        plus, minus, opened, closed = n, n + 1, n + 3, n + 4
        if size == 1:
            number = int(random.integers(0, n))
            return [number], number
        if size == 2:
            number = int(random.integers(0, n))
            return [minus, number], -number % n
        if size == 3:
            expression, value = self._expression(random, 1)
            return [opened, *expression, closed], value
        if size == 4:
            expression, value = self._expression(random, 2)
            return [opened, *expression, closed], value
        left_size = int(random.integers(1, size - 3))
        left, a = self._expression(random, left_size)
        right, b = self._expression(random, size - 3 - left_size)
        operator = int(random.integers(0, 3))
        value = (a + b, a - b, a * b)[operator] % n
        return [opened, *left, plus + operator, *right, closed], value


@dataclass(frozen=True)
class DyckConfig(AutomatonConfig):
    """Brackets of several kinds, well nested and of bounded depth; the answer is the kind that is open innermost.

    Tokens: opening brackets 0 .. kinds-1, then closing ones. Answers: the kind, or `kinds` if none is open.
    Source: Hewitt et al., "RNNs can generate bounded hierarchical languages", for the bounded depth.
    """

    kinds: int = 2
    depth: int = 8
    """How many brackets can be open at once."""

    def __post_init__(self) -> None:
        require(
            (self.kinds >= 1, f"kinds: expected at least 1, got {self.kinds}"),
            (self.depth >= 1, f"depth: expected at least 1, got {self.depth}"),
        )

    @property
    def vocabulary(self) -> int:
        return max(2 * self.kinds, self.kinds + 1)

    @property
    def chance(self) -> float:
        return 1 / (self.kinds + 1)

    def sample(self, random: np.random.Generator, batch: int, length: int) -> tuple[Ints, Ints]:
        rows = np.arange(batch)
        stack = np.full((batch, self.depth + 1), self.kinds)  # below the lowest bracket is "none"
        height = np.zeros(batch, dtype=np.int64)
        tokens, targets = np.empty((2, batch, length), dtype=np.int64)
        coins, kinds = random.random((length, batch)), random.integers(0, self.kinds, size=(length, batch))
        for t in range(length):
            opens = (height == 0) | ((height < self.depth) & (coins[t] < 0.5))
            tokens[:, t] = np.where(opens, kinds[t], self.kinds + stack[rows, height])
            height = height + np.where(opens, 1, -1)
            stack[rows[opens], height[opens]] = kinds[t][opens]
            targets[:, t] = stack[rows, height]
        return tokens, self._asked(targets)
