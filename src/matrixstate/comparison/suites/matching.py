"""Budget matching: finds the size or the steps with which each entry meets the budget of a suite."""

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from matrixstate.comparison.suites.entries import EntryConfig, varied_path, with_option
from matrixstate.comparison.suites.suite import SuiteConfig
from matrixstate.devices import CPU, wait
from matrixstate.errors import ConfigError
from matrixstate.models import Counts, LanguageModel, ModelConfig, count

LARGEST = 2**24  # no option that sets a model's size is larger
BACKWARD = 3  # forward and backward cost three times the forward pass: two products per weight matrix in the latter


@dataclass(frozen=True)
class Matched:
    """One entry at the size or number of steps that meets the budget, and its cost."""

    entry: str
    title: str
    model: ModelConfig
    varied: str
    """Path of the option that was varied, "steps", or "nothing"."""
    value: int | None
    """Its value."""
    steps: int
    tokens: int
    """Tokens of the whole training; an upper bound for a curriculum."""
    parameters: int
    parameters_without_embeddings: int
    state_bytes: int
    flops_per_token: int

    @property
    def flops(self) -> int:
        """Of the whole training, forward and backward."""
        return BACKWARD * self.flops_per_token * self.tokens


@dataclass(frozen=True)
class Shape:
    """The properties of a training that costs depend on, besides the model."""

    vocabulary: int
    length: int
    """Tokens per sequence."""
    steps: int
    tokens_per_step: int
    device: torch.device = CPU
    """Where it is timed, for a budget in seconds."""


def match(suite: SuiteConfig, shapes: dict[str, Shape]) -> list[Matched]:
    """Every entry at the suite's budget, in order. Raises ConfigError with a sentence per entry that cannot meet it."""
    budget, by = _budget(suite, shapes), None if suite.match is None else suite.match.by
    found, problems = [], []
    for entry in suite.entries:
        shape = shapes[entry.name]
        try:
            one = _fit(suite, entry, shape, budget)
        except ConfigError as error:
            problems += [f"models: {entry.name}: {problem}" for problem in error.problems]
            continue
        if by in ("parameters", "state_bytes", "flops") and suite.match is not None:
            got, tolerance = getattr(one, by), suite.match.tolerance
            if abs(got - budget) > tolerance * budget:
                problems.append(
                    f"models: {entry.name}: expected {by} within {tolerance:.1%} of {budget:,.0f}, "
                    f"the nearest is {got:,} ({_how(one)})"
                )
        found.append(one)
    if problems:
        raise ConfigError(problems)
    return found


def _expect_near(suite: SuiteConfig, seconds: float, budget: float, how: str) -> None:
    tolerance = 0.0 if suite.match is None else suite.match.tolerance
    if abs(seconds - budget) > tolerance * budget:
        raise ConfigError(
            f"expected wall_time within {tolerance:.1%} of {budget:,.3g} s, the nearest is {seconds:,.3g} s ({how})"
        )


def _how(one: Matched) -> str:
    return "nothing may vary" if one.value is None else f"{one.varied} = {one.value:,}"


def _budget(suite: SuiteConfig, shapes: dict[str, Shape]) -> float:
    """The budget of every entry: the suite's value, or the cost of its control."""
    if suite.match is None:
        return 0.0
    if suite.match.value is not None:
        return suite.match.value
    control = next(entry for entry in suite.entries if entry.name == suite.reference)
    shape = shapes[control.name]
    if suite.match.by == "wall_time":
        return step_seconds(control.model, shape) * shape.steps
    value = getattr(_describe(control, control.model, shape), suite.match.by)
    if not value:
        raise ConfigError(f"match: expected {suite.match.by} of the control {control.name}, got {value}; give a value")
    return float(value)


def _fit(suite: SuiteConfig, entry: EntryConfig, shape: Shape, budget: float) -> Matched:
    by = None if suite.match is None else suite.match.by
    if by == "flops":  # they are proportional to the steps
        per_step = _describe(entry, entry.model, dataclasses.replace(shape, steps=1)).flops
        steps = max(1, round(budget / per_step))
        return _describe(entry, entry.model, dataclasses.replace(shape, steps=steps), "steps", steps)
    if by == "wall_time":
        if suite.match is not None and suite.match.value is None and entry.name == suite.reference:
            return _describe(entry, entry.model, shape, "steps", shape.steps)  # a second timing would differ
        seconds = step_seconds(entry.model, shape)
        steps = max(1, round(budget / seconds))
        _expect_near(suite, steps * seconds, budget, f"steps = {steps:,}")
        return _describe(entry, entry.model, dataclasses.replace(shape, steps=steps), "steps", steps)
    path = varied_path(suite.match, entry)
    if by is None or path is None:
        return _describe(entry, entry.model, shape)

    def measure(number: int) -> float | None:
        try:
            return getattr(_describe(entry, with_option(entry.model, path, number), shape), by)
        except ConfigError:  # a size that is not valid with the others, say not a multiple of the heads
            return None

    number = nearest_number(measure, budget)
    return _describe(entry, with_option(entry.model, path, number), shape, path, number)


def _describe(
    entry: EntryConfig, model: ModelConfig, shape: Shape, varied: str = "nothing", value: int | None = None
) -> Matched:
    model = dataclasses.replace(model, vocabulary=model.vocabulary or shape.vocabulary)
    counts: Counts = count(model, shape.length)
    return Matched(
        entry=entry.name,
        title=entry.title,
        model=model,
        varied=varied,
        value=value,
        steps=shape.steps,
        tokens=shape.steps * shape.tokens_per_step,
        parameters=counts.parameters,
        parameters_without_embeddings=counts.parameters_without_embeddings,
        state_bytes=counts.state_bytes,
        flops_per_token=counts.flops_per_token,
    )


def nearest_number(measure: Callable[[int], float | None], target: float) -> int:
    """The integer from 1 on whose measure is nearest the target.

    The measure must not decrease; None marks numbers that are not valid. The target is bracketed, then the bracket is
    cut by linear interpolation or in half, about ten measurements in all. Raises ConfigError if no number is valid.
    """
    seen: dict[int, float | None] = {}

    def at(number: int) -> float | None:
        if number not in seen:
            seen[number] = measure(number)
        return seen[number]

    def first_from(number: int, end: int) -> int | None:
        return next((n for n in range(number, end) if at(n) is not None), None)

    low = high = first_from(1, 1025)
    if low is None or high is None:
        raise ConfigError("vary: expected an option with a valid value from 1 to 1024, found none")
    while (at(high) or 0) < target and high < LARGEST:  # bracket the target, by factors of about eight
        further = first_from(8 * high, 16 * high + 1024) or first_from(high + 1, 8 * high)
        if further is None:
            break
        low, high = high, further
    for turn in itertools.count():  # cut the bracket until no valid number is inside
        # interpolation alone creeps where the measure is far from linear: every third cut is in half
        guess = _between(low, high, at(low) or 0, at(high) or 0, target if turn % 3 else None)
        middle = first_from(guess, high) if high - low > 1 else None
        if middle is None:  # no valid number from the guess on
            middle = next((n for n in range(guess - 1, low, -1) if at(n) is not None), None)
        if middle is None:
            break
        low, high = (middle, high) if (at(middle) or 0) < target else (low, middle)
    return min((low, high), key=lambda n: abs((at(n) or 0) - target))


def _between(low: int, high: int, at_low: float, at_high: float, target: float | None) -> int:
    """An integer between two others: where the line through their measures meets the target, or for None the middle."""
    if target is None or at_high <= at_low:
        return (low + high + 1) // 2
    guess = low + round((high - low) * (target - at_low) / (at_high - at_low))
    return min(max(guess, low + 1), max(high - 1, low + 1))


def step_seconds(model: ModelConfig, shape: Shape, rounds: int = 5) -> float:
    """Median seconds of a forward and backward pass, on a CPU with one thread. Leaves the random state as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            vocabulary = model.vocabulary or shape.vocabulary
            trained = LanguageModel(dataclasses.replace(model, vocabulary=vocabulary, dropout=0.0))
            tokens = torch.randint(vocabulary, (max(1, shape.tokens_per_step // shape.length), shape.length))
        trained, tokens = trained.to(shape.device), tokens.to(shape.device)
        took = []
        for _ in range(rounds + 1):
            began = time.perf_counter()
            cross_entropy(trained(tokens)[0].flatten(0, 1), tokens.flatten()).backward()
            wait(shape.device)
            took.append(time.perf_counter() - began)
        return statistics.median(took[1:])  # the first one also allocates
    finally:
        torch.set_num_threads(threads)
