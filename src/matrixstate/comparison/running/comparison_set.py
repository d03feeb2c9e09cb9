"""Comparisons of several parts in a directory, run by one pool of workers. They can be resumed and extended."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from matrixstate.comparison.running.comparison import (
    Comparison,
    expect_device,
    new_directory,
    reading,
    write_environment,
    write_yaml,
)
from matrixstate.comparison.running.jobs import Job
from matrixstate.comparison.running.progress import Listener, run_unfinished
from matrixstate.comparison.running.tables import RESULTS, PartResult, Result, read_rows, write_rows
from matrixstate.comparison.suites.files import with_seeds
from matrixstate.comparison.suites.plan import SetPlan, plan_any
from matrixstate.comparison.suites.set import SuiteSet, make_set, merge_part_problems
from matrixstate.comparison.suites.suite import SuiteConfig
from matrixstate.configs import read_yaml
from matrixstate.devices import CPU
from matrixstate.errors import CheckpointError, ConfigError

PARTS = "parts"


@dataclass(frozen=True)
class ComparisonSet:
    """A directory: suite.yaml, environment.json, results.csv over all parts, figures/, report.html, and parts/NAME/.

    Each part is an ordinary comparison with its own budget, data, trials and tables.
    """

    directory: Path
    suite: SuiteSet
    parts: dict[str, Comparison]

    @classmethod
    def create(cls, directory: Path, plan: SetPlan, device: torch.device = CPU) -> "ComparisonSet":
        """Writes a new comparison. Raises ConfigError unless the directory is new or empty."""
        with new_directory(directory):
            places = {name: directory / PARTS / name for name in plan.parts}
            parts = {name: Comparison.create(places[name], one, device) for name, one in plan.parts.items()}
            write_environment(directory, device)
            write_yaml(directory / "suite.yaml", plan.suite.source)  # last: a directory with suite.yaml is a comparison
        return cls(directory, plan.suite, parts)

    @classmethod
    def open(cls, directory: Path) -> "ComparisonSet":
        """Reads an existing comparison. Raises CheckpointError if it is missing, damaged or differs from its parts."""
        with reading(directory):
            suite = make_set(read_yaml((directory / "suite.yaml").read_text(encoding="utf-8")))
        parts = {name: Comparison.open(directory / PARTS / name) for name in suite.parts}
        differences = _differences(parts, suite)
        if differences:
            found = "; ".join(differences)
            raise CheckpointError(f"compare: {directory / 'suite.yaml'} does not match its parts: {found}")
        return cls(directory, suite, _with_seeds(parts, suite))

    def extend(self, suite: SuiteSet) -> "ComparisonSet":
        """The same comparison with the number of seeds of `suite`. Raises ConfigError if anything else differs."""
        heads = {"name": (self.suite.name, suite.name), "title": (self.suite.title, suite.title)}
        heads["parts"] = (list(self.suite.parts), list(suite.parts))
        differences = [
            f"{key}: {ours!r} there, {theirs!r} here" for key, (ours, theirs) in heads.items() if ours != theirs
        ]
        if list(self.suite.parts) == list(suite.parts):
            differences += _differences(self.parts, suite)
        if differences:
            raise ConfigError(f"--out: {self.directory} holds another suite: {one}" for one in differences)
        for name, part in self.parts.items():
            part.extend(suite.parts[name])
        if suite.seeds != self.suite.seeds:
            write_yaml(self.directory / "suite.yaml", suite.source)
        return ComparisonSet(self.directory, suite, _with_seeds(self.parts, suite))

    def trials(self) -> list[Job]:
        """The trials of every part."""
        return [job for part in self.parts.values() for jobs in part.trials().values() for job in jobs]

    def finals(self) -> list[Job]:
        """The jobs of the comparison, by seed, then part, then entry."""
        return sorted((job for part in self.parts.values() for job in part.finals()), key=lambda job: job.seed)

    def run(self, workers: int, listener: Listener) -> None:
        """Runs the unfinished jobs and writes the CSV tables. Raises pool.Interrupted when a signal stopped it."""
        run_unfinished("trials", self.trials(), workers, listener, self.name_of)
        run_unfinished("training", self.finals(), workers, listener, self.name_of)
        self.write_tables()

    def name_of(self, job: Job) -> str:
        """The short name of a job: PART/ENTRY/seed-N or PART/ENTRY/trial-RATE."""
        part, _, *place = job.directory.relative_to(self.directory / PARTS).parts
        return "/".join((part, *place))

    def write_tables(self) -> None:
        """Writes the CSV tables of every part, and results.csv over all of them."""
        rows = []
        for name, part in self.parts.items():
            part.write_tables()
            found = read_rows(part.directory / RESULTS, Result)
            rows += [PartResult(comparison=self.suite.heading, part=name, **vars(row)) for row in found]
        write_rows(self.directory / RESULTS, PartResult, rows)


def _differences(parts: Mapping[str, Comparison], suite: SuiteSet) -> list[str]:
    found = {name: part.differences(suite.parts[name]) for name, part in parts.items()}
    return merge_part_problems(found, suite.own_options)


def _with_seeds(parts: Mapping[str, Comparison], suite: SuiteSet) -> dict[str, Comparison]:
    return {name: dataclasses.replace(part, suite=with_seeds(part.suite, suite.seeds)) for name, part in parts.items()}


def is_set(directory: Path) -> bool:
    """Whether the directory is a comparison of several parts."""
    return (directory / PARTS).is_dir()


def open_any(directory: Path, device: torch.device = CPU) -> Comparison | ComparisonSet:
    """The existing comparison, of one part or of several. Raises CheckpointError if it is missing or damaged.

    device: where its jobs run.
    """
    if not is_set(directory):
        return dataclasses.replace(Comparison.open(directory), device=device)
    found = ComparisonSet.open(directory)
    parts = {name: dataclasses.replace(part, device=device) for name, part in found.parts.items()}
    return dataclasses.replace(found, parts=parts)


def prepare(directory: Path, suite: SuiteConfig | SuiteSet, device: torch.device = CPU) -> Comparison | ComparisonSet:
    """The comparison in `directory`, new or resumed with the same suite, on a device.

    Raises ConfigError if it has another suite, or was begun on a device of another kind.
    """
    if not (directory / "suite.yaml").exists():
        plan = plan_any(suite, device)
        if isinstance(plan, SetPlan):
            return ComparisonSet.create(directory, plan, device)
        return Comparison.create(directory, plan, device)
    existing = open_any(directory, device)
    expect_device(directory, device)
    if isinstance(existing, ComparisonSet) and isinstance(suite, SuiteSet):
        return existing.extend(suite)
    if isinstance(existing, Comparison) and not isinstance(suite, SuiteSet):
        return existing.extend(suite)
    kinds = ("a suite", "one of several parts")
    there, here = kinds[::-1] if is_set(directory) else kinds
    raise ConfigError(f"--out: {directory} holds another suite: {there} there, {here} here")
