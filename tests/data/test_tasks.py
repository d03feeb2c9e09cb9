"""Groups are groups, and every task's answers are those of a slow evaluator that shares no code with it."""

import csv
import itertools
from collections import Counter

import numpy as np
import pytest
import torch
import yaml

from matrixstate.configs import decode
from matrixstate.data.tasks import (
    IGNORE,
    TASKS,
    BracketArithmeticConfig,
    CycleNavigationConfig,
    DyckConfig,
    EvenPairsConfig,
    InductionHeadsConfig,
    ModularArithmeticConfig,
    MQARConfig,
    ParityConfig,
    SelectiveCopyingConfig,
    TaskConfig,
    WordProblemConfig,
    group,
    is_group,
    isomorphism,
)
from matrixstate.errors import ConfigError

GROUPS = {"S3": 6, "A5": 60, "S5": 120, "Z60": 60, "D4": 8, "A4xZ5": 60, "D2": 4, "A4": 12, "S2": 2, "Z1": 1, "A6": 360}
GROUPS |= {"Q8": 8, "Q12": 12, "Q8xZ3": 24}
SMALL = {"mqar": 64, "selective_copying": 64, "induction_heads": 16, "bracket_arithmetic": 24}
LENGTH = 40


def rows(task, batch=16, length=LENGTH, seed=0):
    """Tokens and targets as lists of numbers, row by row."""
    tokens, targets = task.at(seed, 0, batch, length)
    return list(zip(tokens.tolist(), targets.tolist(), strict=True))


def generated(table, generators):
    """Every element that is a product of generators."""
    reached = [0]
    for element in reached:
        reached.extend({int(table[element, g]) for g in generators} - set(reached))
    return set(reached)


@pytest.mark.parametrize("name", GROUPS)
def test_the_axioms_of_a_group(name):
    found, n = group(name), GROUPS[name]
    table, numbers = found.table, np.arange(n)
    assert found.order == n
    assert table.min() == 0
    assert table.max() == n - 1
    np.testing.assert_array_equal(table[0], numbers)
    np.testing.assert_array_equal(table[:, 0], numbers)
    np.testing.assert_array_equal(table[numbers, found.inverse()], 0)
    np.testing.assert_array_equal(table[found.inverse(), numbers], 0)
    for g, h in itertools.product(range(0, n, max(1, n // 20)), repeat=2):
        np.testing.assert_array_equal(table[table[g, h]], table[g][table[h]])
    assert is_group(table)
    assert 0 not in found.generators
    assert generated(table, found.generators) == set(range(n))


@pytest.mark.parametrize(
    ("name", "orders", "commutative"),
    [
        ("A5", {1: 1, 2: 15, 3: 20, 5: 24}, False),
        ("S3", {1: 1, 2: 3, 3: 2}, False),
        ("D4", {1: 1, 2: 5, 4: 2}, False),
        ("S5", {1: 1, 2: 25, 3: 20, 4: 30, 5: 24, 6: 20}, False),
        ("Z60", {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 2, 10: 4, 12: 4, 15: 8, 20: 8, 30: 8, 60: 16}, True),
        ("D2", {1: 1, 2: 3}, True),
        ("Q8", {1: 1, 2: 1, 4: 6}, False),
        ("Q12", {1: 1, 2: 1, 3: 2, 4: 6, 6: 2}, False),
        ("A4xZ5", {1: 1, 2: 3, 3: 8, 5: 4, 10: 12, 15: 32}, False),
    ],
)
def test_the_orders_of_the_elements(name, orders, commutative):
    found = group(name)
    assert Counter(found.element_order(g) for g in range(found.order)) == orders
    assert found.commutative == commutative


@pytest.mark.parametrize("name", ["", "B3", "S", "S0", "A5x", "s3", "A4 x Z5", "Z-2", "Q4", "Q10"])
def test_a_group_that_is_unknown(name):
    with pytest.raises(ConfigError, match="group: expected S3, A5, Z60, D4, Q8 or a product"):
        group(name)


def test_a_group_that_is_too_large():
    with pytest.raises(ConfigError, match="at most 5,040 elements, got S8"):
        group("S8")
    with pytest.raises(ConfigError, match="at most 5,040 elements"):
        group("S100")


def test_swaps_are_the_transpositions():
    assert len(group("S5").swaps) == 10
    assert all(group("S5").element_order(g) == 2 for g in group("S5").swaps)
    assert group("A5").swaps == group("Z60").swaps == ()


def test_isomorphism_tells_groups_apart():
    assert isomorphism(group("D3"), group("S3").table) is not None
    assert isomorphism(group("Z6"), group("S3").table) is None
    assert isomorphism(group("Z4"), group("D2").table) is None
    assert isomorphism(group("Z3xZ2"), group("Z6").table) is not None
    damaged = group("S3").table.copy()
    damaged[2, 3] = damaged[2, 4]
    assert not is_group(damaged)
    assert isomorphism(group("S3"), damaged) is None


@pytest.mark.parametrize("name", ["S3", "D4", "A5", "A4xZ5", "D4xZ2"])
def test_an_isomorphism_keeps_products(name):
    ours = group(name)
    renamed = np.concatenate([[0], 1 + np.random.default_rng(3).permutation(ours.order - 1)])
    back = np.argsort(renamed)
    table = renamed[ours.table[back[:, None], back[None, :]]]
    assert (table != ours.table).any()
    mapping = isomorphism(ours, table)
    assert sorted(mapping.tolist()) == list(range(ours.order))
    np.testing.assert_array_equal(mapping[ours.table], table[mapping[:, None], mapping[None, :]])


@pytest.mark.parametrize(("name", "files"), [("A5", ("A5=6", "A5=10")), ("Z60", ("Z60=6",))])
def test_our_groups_are_those_of_the_published_word_problems(name, files, shared_data):
    table, sequences = np.full((60, 60), -1), []
    for file in files:
        with shared_data(f"a5_word_problem/{file}.csv").open(newline="") as lines:
            for line in csv.DictReader(lines):
                sequences.append([[int(n) for n in line[key].split()] for key in ("input", "target")])
    for tokens, targets in sequences:
        for state, token, target in zip([0, *targets[:-1]], tokens, targets, strict=True):
            assert table[state, token] in (-1, target)
            table[state, token] = target
    assert (table >= 0).all()
    ours = group(name)
    theirs = isomorphism(ours, table)
    assert theirs is not None
    back = np.argsort(theirs)
    for tokens, targets in sequences:
        state = 0
        for token, target in zip(tokens, targets, strict=True):
            state = ours.table[state, back[token]]
            assert theirs[state] == target


@pytest.mark.parametrize(
    "task",
    [
        WordProblemConfig("S3"),
        WordProblemConfig("A5"),
        WordProblemConfig("S5", elements="swaps"),
        WordProblemConfig("S5", elements="generators"),
        WordProblemConfig("A5", elements="generators", tokens=6),
    ],
    ids=str,
)
def test_word_problems_are_products_of_permutations(task):
    permutations = list(itertools.permutations(range(int(task.group[1:]))))
    if task.group.startswith("A"):
        permutations = [p for p in permutations if sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0]
    seen = set()
    for tokens, targets in rows(task):
        places = list(permutations[0])  # where each thing is
        for token, target in zip(tokens, targets, strict=True):
            places = [permutations[token][place] for place in places]
            assert permutations[target] == tuple(places)
        seen |= set(tokens)
    assert seen <= set(task.alphabet().tolist())
    if task.elements != "all":
        assert seen == set(task.alphabet().tolist())
    assert generated(group(task.group).table, task.alphabet()) == set(range(task.vocabulary))


def test_the_sizes_of_alphabets():
    assert len(WordProblemConfig("S5", elements="swaps").alphabet()) == 11
    assert WordProblemConfig("A5", elements="generators").alphabet().tolist() == [0, *group("A5").generators]
    for tokens in (2, 6, 60):
        alphabet = WordProblemConfig("A5", elements="generators", tokens=tokens).alphabet()
        assert len(set(alphabet.tolist())) == tokens
        assert set(group("A5").generators) <= set(alphabet.tolist())


def test_products_of_numbers_are_sums():
    for tokens, targets in rows(WordProblemConfig("Z60")):
        assert targets == [sum(tokens[: t + 1]) % 60 for t in range(len(tokens))]


def test_parity():
    for tokens, targets in rows(ParityConfig()):
        assert targets == [tokens[: t + 1].count(1) % 2 for t in range(len(tokens))]


def test_even_pairs_count_changes():
    for tokens, targets in rows(EvenPairsConfig()):
        for t, target in enumerate(targets):
            changes = Counter(itertools.pairwise(tokens[: t + 1]))
            assert target == (changes[0, 1] == changes[1, 0])


@pytest.mark.parametrize("places", [2, 5])
def test_cycle_navigation(places):
    for tokens, targets in rows(CycleNavigationConfig(places)):
        place = 0
        for token, target in zip(tokens, targets, strict=True):
            place = (place, (place + 1) % places, (place - 1) % places)[token]
            assert target == place


@pytest.mark.parametrize("modulus", [2, 5, 7])
def test_modular_arithmetic_puts_times_before_plus(modulus):
    for tokens, targets in rows(ModularArithmeticConfig(modulus=modulus), length=13):
        for t, target in enumerate(targets):
            if t % 2:
                assert target == IGNORE
                assert modulus <= tokens[t] < modulus + 3
                continue
            assert 0 <= tokens[t] < modulus
            assert target == Parser(tokens[: t + 1], modulus).value()


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 7, 8, 9, 25])
def test_bracket_arithmetic(length):
    for tokens, targets in rows(BracketArithmeticConfig(), length=length, batch=64):
        assert tokens[-1] == 10
        assert 10 not in tokens[:-1]
        assert targets[:-1] == [IGNORE] * (length - 1)
        assert targets[-1] == Parser(tokens[:-1], 5).value()


class Parser:
    """sum = product {(+ | -) product}; product = atom {* atom}; atom = number | - atom | ( sum )."""

    def __init__(self, tokens, modulus):
        names = [*range(modulus), "+", "-", "*", "(", ")", "="]
        self.rest, self.modulus = [names[token] for token in tokens], modulus

    def value(self):
        value = self.sum()
        assert not self.rest
        return value % self.modulus

    def sum(self):
        value = self.product()
        while self.rest and self.rest[0] in ("+", "-"):
            sign = 1 if self.rest.pop(0) == "+" else -1
            value += sign * self.product()
        return value

    def product(self):
        value = self.atom()
        while self.rest and self.rest[0] == "*":
            self.rest.pop(0)
            value *= self.atom()
        return value

    def atom(self):
        first = self.rest.pop(0)
        if first == "-":
            return -self.atom()
        if first == "(":
            value = self.sum()
            assert self.rest.pop(0) == ")"
            return value
        assert isinstance(first, int)
        return first


@pytest.mark.parametrize(("kinds", "depth"), [(1, 1), (1, 3), (2, 8), (3, 4)])
def test_dyck_words_are_well_nested_and_not_too_deep(kinds, depth):
    deepest = 0
    for tokens, targets in rows(DyckConfig(kinds=kinds, depth=depth), length=80):
        opened = []
        for token, target in zip(tokens, targets, strict=True):
            if token < kinds:
                opened.append(token)
            else:
                assert opened.pop() == token - kinds
            assert target == (opened[-1] if opened else kinds)
            deepest = max(deepest, len(opened))
    assert deepest == depth


@pytest.mark.parametrize("kind", [k for k in TASKS if k not in SMALL and k not in ("word_problem",)])
def test_last_only_asks_once_the_same(kind):
    every, last = TASKS[kind]().at(0, 0, 8, 13), TASKS[kind](last_only=True).at(0, 0, 8, 13)
    assert torch.equal(every[0], last[0])
    assert torch.equal(every[1][:, -1], last[1][:, -1])
    assert (last[1][:, :-1] == IGNORE).all()


def test_mqar_asks_for_every_key_once():
    task = MQARConfig(symbols=64, pairs=8)
    for tokens, targets in rows(task, length=128, batch=64):
        pairs = dict(zip(tokens[0:16:2], tokens[1:16:2], strict=True))
        assert len(pairs) == len(set(pairs.values())) == 8
        assert all(1 <= key < 32 <= value < 64 for key, value in pairs.items())
        asked = [t for t, target in enumerate(targets) if target != IGNORE]
        assert sorted(tokens[t] for t in asked) == sorted(pairs)
        assert all(t >= 16 and t % 2 == 0 and targets[t] == pairs[tokens[t]] for t in asked)


def test_mqars_distances_follow_the_power_law():
    task, places = MQARConfig(symbols=64, pairs=1, power=0.5), 31
    tokens, targets = task.at(0, 0, 20_000, 2 + 2 * places)
    asked = (targets != IGNORE).int().argmax(dim=1)
    found = np.bincount(((asked - 2) // 2).numpy(), minlength=places) / 20_000
    expected = np.arange(1, places + 1) ** -0.5
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.012)
    quiet = MQARConfig(symbols=64, pairs=4, random_filler=False)
    tokens, targets = quiet.at(0, 0, 4, 64)
    assert (tokens[:, 8:][targets[:, 8:] == IGNORE] == 0).all()


def test_selective_copying():
    task = SelectiveCopyingConfig(symbols=9, items=5)
    for tokens, targets in rows(task):
        data = [token for token in tokens if token > 1]
        assert len(data) == 5
        assert tokens[-5:] == [1] * 5
        assert 1 not in tokens[:-5]
        assert targets == [IGNORE] * (LENGTH - 5) + data


def test_induction_heads():
    for tokens, targets in rows(InductionHeadsConfig(), length=9, batch=200):
        assert tokens.count(0) == 2
        assert tokens[-1] == 0
        assert targets == [IGNORE] * 8 + [tokens[tokens.index(0) + 1]]
        assert targets[-1] != 0


@pytest.mark.parametrize("kind", TASKS)
def test_a_batch_is_a_function_of_seed_and_step(kind):
    task, length = TASKS[kind](), SMALL.get(kind, LENGTH)
    tokens, targets = task.at(3, 5, 4, length)
    again = task.at(3, 5, 4, length)
    assert torch.equal(tokens, again[0])
    assert torch.equal(targets, again[1])
    assert tokens.shape == targets.shape == (4, length)
    assert tokens.dtype == targets.dtype == torch.int64
    assert not torch.equal(tokens, task.at(3, 6, 4, length)[0])
    assert not torch.equal(tokens, task.at(4, 5, 4, length)[0])
    assert tokens.min() >= 0
    assert tokens.max() < task.vocabulary
    due = targets[targets != IGNORE]
    assert len(due)
    assert due.min() >= 0
    assert due.max() < task.vocabulary
    assert 0 < task.chance <= 1


class Replay:
    """Random numbers; those for a shorter sequence are the first of those for a longer one."""

    def __init__(self, numbers, steps):
        self.numbers, self.steps = numbers, steps

    def integers(self, low, high, size):
        return low + (self.numbers[: size[0], : size[1]] * (high - low)).astype(np.int64)


@pytest.mark.parametrize(
    "kind", [k for k, task in TASKS.items() if task.prefix and k not in ("dyck", "modular_arithmetic")]
)
def test_the_answers_of_a_prefix_are_those_of_a_sequence(kind):
    numbers = np.random.default_rng(0).random((8, 40))
    tokens, targets = TASKS[kind]().sample(Replay(numbers, 40), 8, 40)
    for length in (1, 2, 7, 40):
        short = TASKS[kind]().sample(Replay(numbers, length), 8, length)
        np.testing.assert_array_equal(short[0], tokens[:, :length])
        np.testing.assert_array_equal(short[1], targets[:, :length])


@pytest.mark.parametrize("kind", [k for k, task in TASKS.items() if task.prefix])
def test_no_steps_are_legal_where_prefixes_are(kind):
    assert TASKS[kind]().at(0, 0, 3, 0)[0].shape == (3, 0)
    assert TASKS[kind]().at(0, 0, 3, 1)[0].shape == (3, 1)


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("{kind: parity, last: true}", ["last: unknown key; did you mean 'last_only'?"]),
        ("{kind: cycle_navigation, places: 1}", ["places: expected at least 2, got 1"]),
        (
            "{kind: dyck, kinds: 0, depth: 0}",
            ["kinds: expected at least 1, got 0", "depth: expected at least 1, got 0"],
        ),
        (
            "{kind: mqar, symbols: 8, pairs: 4, power: 0}",
            ["pairs: expected 1 to 3, the number of keys, got 4", "power: expected a positive number, got 0.0"],
        ),
        (
            "{kind: selective_copying, symbols: 3, items: 0}",
            ["symbols: expected at least 4, got 3", "items: expected at least 1, got 0"],
        ),
        ("{kind: modular_arithmetic, modulus: 1}", ["modulus: expected at least 2, got 1"]),
        ("{kind: bracket_arithmetic, modulus: 1}", ["modulus: expected at least 2, got 1"]),
        ("{kind: induction_heads, symbols: 2}", ["symbols: expected at least 3, got 2"]),
        (
            "{kind: word_problem, group: D4, elements: swaps}",
            ["elements: expected all or generators, for D4 knows no swaps, got swaps"],
        ),
        (
            "{kind: word_problem, group: Z6, elements: swaps, tokens: 9}",
            [
                "elements: expected all or generators, for Z6 knows no swaps, got swaps",
                "tokens: expected none where elements is swaps, got 9",
                "tokens: expected 1 to 6 for Z6, got 9",
            ],
        ),
    ],
)
def test_all_mistakes_of_a_config_come_at_once(text, problems):
    with pytest.raises(ConfigError) as raised:
        decode(TaskConfig, yaml.safe_load(text), {TaskConfig: TASKS})
    assert list(raised.value.problems) == problems


def test_a_seed_below_zero_is_refused():
    with pytest.raises(ConfigError, match="seed: expected 0 or more, got -1"):
        TASKS["parity"]().at(-1, 0, 2, 8)


@pytest.mark.parametrize(
    ("task", "length", "least"),
    [
        (MQARConfig(), 31, 32),
        (SelectiveCopyingConfig(), 31, 32),
        (InductionHeadsConfig(), 2, 3),
        (BracketArithmeticConfig(), 1, 2),
    ],
)
def test_a_length_at_which_a_task_does_not_exist(task, length, least):
    with pytest.raises(ConfigError, match=f"length: expected at least {least} .*, got {length}"):
        task.at(0, 0, 2, length)
    assert task.at(0, 0, 2, least)[0].shape == (2, least)
