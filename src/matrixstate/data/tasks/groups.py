"""Finite groups by name, as multiplication tables."""

import itertools
import math
import re
from dataclasses import dataclass
from functools import cache

import numpy as np

from matrixstate.data.tasks.task import Ints
from matrixstate.errors import ConfigError

LARGEST = 5040  # S7; its table has 25 million entries
_FACTOR = re.compile(r"([SAZDQ])([1-9]\d*)")


@dataclass(frozen=True)
class Group:
    """A finite group. Elements are numbers from 0, the identity."""

    name: str
    table: Ints  # [order, order]; table[g, h] is g·h
    generators: tuple[int, ...]  # a small generating set, without the identity
    swaps: tuple[int, ...]  # the transpositions, of S_n

    @property
    def order(self) -> int:
        return len(self.table)

    @property
    def commutative(self) -> bool:
        return bool((self.table == self.table.T).all())

    def inverse(self) -> Ints:
        """[order], the inverse of each element."""
        return np.argmin(self.table, axis=1)

    def element_order(self, element: int) -> int:
        """The least n > 0 with element^n = 1."""
        power, n = element, 1
        while power != 0:
            power, n = int(self.table[power, element]), n + 1
        return n


@cache
def group(name: str) -> Group:
    """The group called `name`.

    S3 are all permutations of three things, A5 the even ones of five, Z60 the numbers below 60 under addition, D4 the
    symmetries of a square, Q8 the quaternions +-1, +-i, +-j, +-k (dicyclic, as Q12 and Q16 are); A4xZ5 is a direct
    product. Permutations are in lexicographic order, and g·h does g first.

    Raises ConfigError for another name or a group of more than 5,040 elements.
    """
    factors = [_FACTOR.fullmatch(part) for part in name.split("x")]
    parts = [(f[1], int(f[2])) for f in factors if f]
    if not all(factors) or any(kind == "Q" and (n < 8 or n % 4) for kind, n in parts):
        raise ConfigError(f"group: expected S3, A5, Z60, D4, Q8 or a product as in A4xZ5, got {name!r}")
    if math.prod(_order(kind, n) for kind, n in parts) > LARGEST:
        raise ConfigError(f"group: expected at most {LARGEST:,} elements, got {name}")
    whole = _factor(*parts[0])
    for kind, n in parts[1:]:
        whole = _product(whole, _factor(kind, n))
    return whole


def _order(kind: str, n: int) -> int:
    factorial = math.factorial(min(n, 10))
    return {"S": factorial, "A": max(factorial // 2, 1), "Z": n, "D": 2 * n, "Q": n}[kind]


def _factor(kind: str, n: int) -> Group:
    if kind == "Z":
        table = np.add.outer(np.arange(n), np.arange(n)) % n
        return Group(f"Z{n}", table, (1,) if n > 1 else (), ())
    if kind == "Q":
        return _dicyclic(n)
    turn = (*range(1, n), 0)
    if kind == "D":
        turns = [tuple((i + s) % n for i in range(n)) for s in range(n)]
        flips = [tuple((s - i) % n for i in range(n)) for s in range(n)]
        if n < 3:  # too few corners to tell flips from turns
            return _renamed(_product(_factor("Z", n), _factor("Z", 2)), f"D{n}")
        return _of_permutations(f"D{n}", turns + flips, [turn, flips[0]])
    elements = list(itertools.permutations(range(n)))
    if kind == "S":
        swap = (1, 0, *range(2, n))
        return _of_permutations(f"S{n}", elements, [swap, turn] if n > 2 else [swap] if n == 2 else [])
    elements = [p for p in elements if _even(p)]
    cycles = [_cycle(n, (0, 1, k)) for k in range(2, n)]  # the 3-cycles (0 1 k) generate A_n
    if n >= 5:
        cycles = [_cycle(n, (0, 1, 2)), _cycle(n, tuple(range(n)) if n % 2 else tuple(range(1, n)))]
    return _of_permutations(f"A{n}", elements, cycles)


def _cycle(n: int, places: tuple[int, ...]) -> tuple[int, ...]:
    out = list(range(n))
    for here, there in zip(places, (*places[1:], places[0]), strict=True):
        out[here] = there
    return tuple(out)


def _even(permutation: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(permutation, 2)) % 2 == 0


def _of_permutations(name: str, elements: list, generators: list) -> Group:
    index = {p: i for i, p in enumerate(elements)}
    rows = np.array(elements)
    powers = rows.shape[1] ** np.arange(rows.shape[1])
    numbers = rows @ powers  # a number for every permutation
    order = np.argsort(numbers)
    table = np.empty((len(rows), len(rows)), dtype=np.int64)
    for g, row in enumerate(rows):
        table[g] = order[np.searchsorted(numbers, rows[:, row] @ powers, sorter=order)]  # first g, then h
    moved = (rows != np.arange(rows.shape[1])).sum(axis=1)
    swaps = tuple(int(i) for i in np.flatnonzero(moved == 2)) if name[0] == "S" else ()  # in D4 only two flips
    return Group(name, table, tuple(index[g] for g in generators), swaps)


def _dicyclic(order: int) -> Group:
    """a^k x^e has the number k + e·order/2, where x a = a^-1 x and x² = a^(order/4)."""
    half, numbers = order // 2, np.arange(order)
    k, e = numbers % half, numbers // half
    turned = k[:, None] + np.where(e[:, None] == 1, -k, k) + (order // 4) * (e[:, None] & e)
    return Group(f"Q{order}", turned % half + half * (e[:, None] ^ e), (1, half), ())


def _product(one: Group, other: Group) -> Group:
    """The direct product; (g, h) has the number g·|other| + h."""
    size = one.order * other.order
    table = one.table[:, None, :, None] * other.order + other.table[None, :, None, :]
    generators = (*(g * other.order for g in one.generators), *other.generators)
    return Group(f"{one.name}x{other.name}", table.reshape(size, size), generators, ())


def _renamed(group: Group, name: str) -> Group:
    return Group(name, group.table, group.generators, group.swaps)


def isomorphism(group: Group, table: Ints) -> Ints | None:
    """[order], for every element of `group` the one of the multiplication `table` [n, n] it is; None if they differ.

    The table's identity is 0. Tries the images of the generators, so it needs about n^(their number) attempts.
    """
    if len(table) != group.order or not is_group(table):
        return None
    other = Group("", table, (), ())
    orders = [other.element_order(g) for g in range(len(table))]
    wanted = [group.element_order(g) for g in group.generators]
    candidates = [[g for g, order in enumerate(orders) if order == n] for n in wanted]
    for images in itertools.product(*candidates):
        mapping = _extended(group, table, images)
        if mapping is not None and (mapping[group.table] == table[mapping[:, None], mapping[None, :]]).all():
            return mapping
    return None


def is_group(table: Ints) -> bool:
    """Whether a multiplication table [n, n] is that of a group whose identity is 0."""
    n = len(table)
    numbers = np.arange(n)
    latin = (np.sort(table, axis=0) == numbers[:, None]).all() and (np.sort(table, axis=1) == numbers).all()
    if not latin or (table[0] != numbers).any() or (table[:, 0] != numbers).any():
        return False
    return all((table[table[g]] == table[g][table]).all() for g in range(n))  # (g h) k = g (h k)


def _extended(group: Group, table: Ints, images: tuple[int, ...]) -> Ints | None:
    """The map that sends the generators to `images`, if there is a one-to-one such map."""
    mapping = np.full(group.order, -1)
    mapping[0] = 0
    reached = [0]
    for element in reached:
        for generator, image in zip(group.generators, images, strict=True):
            product, theirs = group.table[element, generator], table[mapping[element], image]
            if mapping[product] < 0:
                mapping[product] = theirs
                reached.append(int(product))
            elif mapping[product] != theirs:
                return None
    return mapping if len(set(mapping.tolist())) == group.order else None
