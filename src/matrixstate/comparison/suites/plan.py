"""The plan of a comparison: what it will train, validated before anything is written."""

from dataclasses import dataclass

import torch

from matrixstate.comparison.suites.entries import TaskEntry
from matrixstate.comparison.suites.matching import Matched, Shape, match
from matrixstate.comparison.suites.set import SuiteSet, merge_part_problems
from matrixstate.comparison.suites.suite import SuiteConfig, TaskSuite, TextSuite
from matrixstate.data import RandomWindows, TokenizedText, tokenize
from matrixstate.devices import CPU
from matrixstate.errors import ConfigError
from matrixstate.training import RunConfig, TaskRunConfig, TextRunConfig
from matrixstate.training.fit import expect_fit
from matrixstate.training.start import expect_task_fit


@dataclass(frozen=True)
class Plan:
    """The entries at the budget, and the tokenized text they are trained on; None for a task."""

    suite: SuiteConfig
    sizes: list[Matched]
    text: TokenizedText | None


@dataclass(frozen=True)
class SetPlan:
    """The plan of every part of a set."""

    suite: SuiteSet
    parts: dict[str, Plan]


def make_plan(suite: SuiteConfig, device: torch.device = CPU) -> Plan:
    """Tokenizes the text and meets the budget. Writes nothing. Raises ConfigError or DataError if either fails.

    device: where the entries will be trained, on which a budget in seconds depends.
    """
    if isinstance(suite, TaskSuite):
        shapes = {entry.name: _task_shape(suite, entry, device) for entry in suite.models}
        return Plan(suite, _expect_fits(suite, match(suite, shapes)), None)
    assert isinstance(suite, TextSuite)
    text = tokenize(suite.data)
    shapes = {}
    for entry in suite.models:
        training = entry.training
        RandomWindows(text.parts["train"], training.sequence, training.batch, 0)
        shapes[entry.name] = Shape(
            text.tokenizer.size, training.sequence, training.steps, training.batch * training.sequence, device
        )
    small = [e for e in suite.models if (e.model.vocabulary or text.tokenizer.size) < text.tokenizer.size]
    if small:
        raise ConfigError(
            f"models: {e.name}: vocabulary: expected at least {text.tokenizer.size}, the tokenizer's, "
            f"got {e.model.vocabulary}"
            for e in small
        )
    return Plan(suite, _expect_fits(suite, match(suite, shapes)), text)


def _expect_fits(suite: SuiteConfig, sizes: list[Matched]) -> list[Matched]:
    """Returns the sizes. Raises ConfigError with each reason why entries cannot be trained, once, with their names."""
    found = dict[str, dict[str, None]]()  # sentence -> entries, in order
    for size in sizes:
        try:
            _expect_fit(suite.run_config(size.entry, size.model))
        except ConfigError as error:
            for problem in error.problems:
                found.setdefault(problem, {})[size.entry] = None
    if found:
        raise ConfigError(
            problem if len(entries) == len(sizes) else f"models: {', '.join(entries)}: {problem}"
            for problem, entries in found.items()
        )
    return sizes


def _expect_fit(config: RunConfig) -> None:
    if isinstance(config, TaskRunConfig):
        expect_task_fit(config)
    elif isinstance(config, TextRunConfig):
        expect_fit(config.model, config.training.rates, {"training.sequence": config.training.sequence})


def _task_shape(suite: TaskSuite, entry: TaskEntry, device: torch.device) -> Shape:
    """The shape at full length; a curriculum's shorter steps hold at most as many tokens."""
    training = entry.training
    return Shape(suite.data.vocabulary, training.length, training.steps, training.batch * training.length, device)


def make_set_plan(suite: SuiteSet, device: torch.device = CPU) -> SetPlan:
    """The plan of every part. Writes nothing. Raises ConfigError with the problems of all parts at once."""
    plans, found = {}, {}
    for name, part in suite.parts.items():
        try:
            plans[name] = make_plan(part, device)
        except ConfigError as error:
            found[name] = error.problems
    if found:
        raise ConfigError(merge_part_problems(found, suite.own_options))
    return SetPlan(suite, plans)


def plan_any(suite: SuiteConfig | SuiteSet, device: torch.device = CPU) -> Plan | SetPlan:
    """The plan of a suite or a set. Writes nothing. Raises ConfigError or DataError if there is none."""
    return make_set_plan(suite, device) if isinstance(suite, SuiteSet) else make_plan(suite, device)
