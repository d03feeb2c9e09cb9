"""What a comparison will train, found out before anything is written."""

from dataclasses import dataclass

from matrixstate.comparison.suites.entries import TaskEntry
from matrixstate.comparison.suites.matching import Matched, Shape, match
from matrixstate.comparison.suites.set import SuiteSet, gathered
from matrixstate.comparison.suites.suite import SuiteConfig, TaskSuite, TextSuite
from matrixstate.data import RandomWindows, TokenizedText, tokenize
from matrixstate.errors import ConfigError
from matrixstate.training import RunConfig
from matrixstate.training.fit import expect_fit
from matrixstate.training.tasks import TaskRunConfig, expect_task_fit


@dataclass(frozen=True)
class Plan:
    """What will be trained: the entries at the budget, and the text they learn."""

    suite: SuiteConfig
    sizes: list[Matched]
    text: TokenizedText | None


@dataclass(frozen=True)
class SetPlan:
    """What will be trained in every part."""

    suite: SuiteSet
    parts: dict[str, Plan]


def make_plan(suite: SuiteConfig) -> Plan:
    """Reads the text and meets the budget. Raises ConfigError or DataError where that cannot be; writes nothing."""
    if isinstance(suite, TaskSuite):
        shapes = {entry.name: _task_shape(suite, entry) for entry in suite.models}
        return Plan(suite, _expect_fits(suite, match(suite, shapes)), None)
    assert isinstance(suite, TextSuite)
    text = tokenize(suite.data)
    shapes = {}
    for entry in suite.models:
        training = entry.training
        RandomWindows(text.parts["train"], training.sequence, training.batch, 0)
        shapes[entry.name] = Shape(
            text.tokenizer.size, training.sequence, training.steps, training.batch * training.sequence
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
    """The same sizes. Raises ConfigError with a sentence for whatever one cannot be trained with, once if in all."""
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


def _expect_fit(config: RunConfig | TaskRunConfig) -> None:
    if isinstance(config, TaskRunConfig):
        expect_task_fit(config)
    else:
        expect_fit(config.model, config.training.rates, {"training.sequence": config.training.sequence})


def _task_shape(suite: TaskSuite, entry: TaskEntry) -> Shape:
    """A curriculum's steps hold at most as many tokens as those at full length."""
    training = entry.training
    return Shape(suite.task.vocabulary, training.length, training.steps, training.batch * training.length)


def make_set_plan(suite: SuiteSet) -> SetPlan:
    """Reads the texts and meets the budget of every part. Raises ConfigError for all parts at once; writes nothing."""
    plans, found = {}, {}
    for name, part in suite.parts.items():
        try:
            plans[name] = make_plan(part)
        except ConfigError as error:
            found[name] = error.problems
    if found:
        raise ConfigError(gathered(found, suite.own))
    return SetPlan(suite, plans)


def plan_any(suite: SuiteConfig | SuiteSet) -> Plan | SetPlan:
    """What will be trained. Raises ConfigError or DataError where that cannot be; writes nothing."""
    return make_set_plan(suite) if isinstance(suite, SuiteSet) else make_plan(suite)
