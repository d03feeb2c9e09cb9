"""A comparison in a directory: from its suite over its jobs to its CSV tables. It can be resumed and extended."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from matrixstate.comparison.running.jobs import Job, read_json, with_training
from matrixstate.comparison.running.progress import Listener, run_unfinished
from matrixstate.comparison.running.tables import (
    CURVES,
    MATCHING,
    RESULTS,
    TRIALS,
    Point,
    Result,
    Size,
    Trial,
    write_rows,
)
from matrixstate.comparison.suites.files import as_data, make_suite
from matrixstate.comparison.suites.matching import Matched
from matrixstate.comparison.suites.plan import Plan
from matrixstate.comparison.suites.suite import SuiteConfig
from matrixstate.configs import decode, encode, flatten, read_yaml
from matrixstate.devices import CPU, describe, kind_of
from matrixstate.errors import CheckpointError, ConfigError
from matrixstate.models import ModelConfig
from matrixstate.plugins import ask_for, missing_plugins
from matrixstate.training import CHOICES
from matrixstate.training.run import environment, replace_file, write_json


@contextmanager
def new_directory(directory: Path) -> Iterator[None]:
    """Creates a directory to write into. Raises ConfigError if it is not empty or cannot be written."""
    try:
        if directory.exists() and any(directory.iterdir()):
            raise ConfigError(f"--out: expected a new or empty directory or a comparison, got {directory}")
        directory.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ConfigError(f"--out: cannot write {directory}: {error.strerror}") from error


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Turns errors of reading a comparison's files into CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"compare: expected a comparison in {directory}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ConfigError, KeyError, TypeError, AttributeError) as error:
        asked = ask_for(missing_plugins(directory / "environment.json"))
        raise CheckpointError(f"compare: {directory} is damaged: {' '.join(str(error).split())}{asked}") from error


@dataclass(frozen=True)
class Comparison:
    """A directory: suite.yaml, matching.json, environment.json, data/, runs/, CSV files, figures/ and report.html."""

    directory: Path
    suite: SuiteConfig
    sizes: list[Matched]
    device: torch.device = CPU
    """Where its jobs run."""

    @classmethod
    def create(cls, directory: Path, plan: Plan, device: torch.device = CPU) -> "Comparison":
        """Writes a new comparison. Raises ConfigError unless the directory is new or empty."""
        with new_directory(directory):
            if plan.text is not None:
                plan.text.write(directory / "data")
            write_environment(directory, device)
            sizes = [{**dataclasses.asdict(one), "model": encode(one.model, CHOICES)} for one in plan.sizes]
            write_json(directory / "matching.json", {"sizes": sizes})
            _write_suite(directory, plan.suite)  # last: a directory with suite.yaml is a comparison
        return cls(directory, plan.suite, plan.sizes, device)

    @classmethod
    def open(cls, directory: Path) -> "Comparison":
        """Reads an existing comparison. Raises CheckpointError if it is missing or damaged."""
        with reading(directory):
            data = read_yaml((directory / "suite.yaml").read_text(encoding="utf-8"))
            sizes = (read_json(directory / "matching.json") or {})["sizes"]
            models = [decode(ModelConfig, one["model"], CHOICES) for one in sizes]
            matched = [Matched(**{**one, "model": model}) for one, model in zip(sizes, models, strict=True)]
            return cls(directory, make_suite(data), matched)

    def extend(self, suite: SuiteConfig) -> "Comparison":
        """The same comparison with the number of seeds of `suite`. Raises ConfigError if anything else differs."""
        differences = self.differences(suite)
        if differences:
            raise ConfigError(f"--out: {self.directory} holds another suite: {one}" for one in differences)
        if suite.seeds != self.suite.seeds:
            _write_suite(self.directory, suite)
        return dataclasses.replace(self, suite=suite)

    def differences(self, suite: SuiteConfig) -> list[str]:
        """A sentence for every option, except the number of seeds, in which `suite` differs from this comparison's."""
        ours, theirs = flatten(as_data(self.suite)), flatten(as_data(suite))
        keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key) and key != "seeds"]
        return [f"{key}: {ours.get(key)!r} there, {theirs.get(key)!r} here" for key in keys]

    def job(self, size: Matched, kind: Literal["trial", "final"], rate: float, seed: int) -> Job:
        """The job of one entry, learning rate and seed."""
        place = f"trial-{rate:g}" if kind == "trial" else f"seed-{seed}"
        steps = size.steps if kind == "final" else self.suite.trial_steps or size.steps
        config = with_training(self.suite.run_config(size.entry, size.model), steps, rate, seed)
        run, data = self.directory / "runs" / size.entry / place, self.directory / "data"
        return Job(run, data, kind, config, self.suite.measured_to, self.suite.metric, str(self.device))

    def trials(self) -> dict[str, list[Job]]:
        """The trials of every entry, one per learning rate; none if there is only one rate."""
        rates, seed = self.suite.learning_rates, self.suite.trial_seed
        if len(rates) < 2:
            return {size.entry: [] for size in self.sizes}
        return {size.entry: [self.job(size, "trial", rate, seed) for rate in rates] for size in self.sizes}

    def rates(self) -> dict[str, float | None]:
        """The learning rate of every entry: that of its best trial, or the only one; None if all its trials failed."""
        chosen: dict[str, float | None] = {}
        for name, jobs in self.trials().items():
            own = self.suite.entry(name).training.learning_rate
            chosen[name] = self._best(jobs) if jobs else next(iter(self.suite.learning_rates), own)
        return chosen

    def _best(self, jobs: Sequence[Job]) -> float | None:
        done = [(job, job.result() or {}) for job in jobs]
        scored = [(self.score(found), job) for job, found in done if found.get("status") == "done"]
        return min(scored, key=lambda pair: pair[0])[1].rate if scored else None

    def score(self, found: dict[str, Any]) -> float:
        """The score of a trial's result; lower is better."""
        value = found["value"]
        return math.inf if value is None else value if self.suite.better == "lower" else -value

    def finals(self) -> list[Job]:
        """The jobs of the comparison, by seed and then entry, so that the remaining time can be estimated early."""
        rates = self.rates()
        pairs = [(seed, size) for seed in self.suite.all_seeds for size in self.sizes]
        return [self.job(size, "final", rate, seed) for seed, size in pairs if (rate := rates[size.entry]) is not None]

    def run(self, workers: int, listener: Listener) -> None:
        """Runs the unfinished jobs and writes the CSV tables. Raises pool.Interrupted when a signal stopped it."""
        trials = [job for jobs in self.trials().values() for job in jobs]
        run_unfinished("trials", trials, workers, listener, self.name_of)
        run_unfinished("training", self.finals(), workers, listener, self.name_of)
        self.write_tables()

    def name_of(self, job: Job) -> str:
        """The short name of a job: ENTRY/seed-N or ENTRY/trial-RATE."""
        return "/".join(job.directory.parts[-2:])

    def write_tables(self) -> None:
        """Writes results.csv, trials.csv, curves.csv and matching.csv from the results of the jobs."""
        found = [(job, job.result()) for job in self.finals()]
        write_rows(self.directory / MATCHING, Size, map(self._size, self.sizes))
        write_rows(self.directory / TRIALS, Trial, self._trials())
        write_rows(self.directory / RESULTS, Result, self._results({job: f for job, f in found if f is not None}))
        write_rows(
            self.directory / CURVES,
            Point,
            (
                Point(entry=job.entry, title=self._title(job.entry), seed=job.seed, curve=name, x=x, y=y)
                for job, result in found
                for name, points in (result or {"curves": {}})["curves"].items()
                for x, y in points
            ),
        )

    def _title(self, name: str) -> str:
        return next(size.title for size in self.sizes if size.entry == name)

    def _size(self, size: Matched) -> Size:
        budget = "" if self.suite.match is None else self.suite.match.by
        names = {field.name for field in dataclasses.fields(Size)} - {"budget", "number"}
        return Size(budget=budget, number=size.value, **{name: getattr(size, name) for name in names})

    def _trials(self) -> list[Trial]:
        rates, rows = self.rates(), []
        names = ("status", "reason", "steps")
        for entry, jobs in self.trials().items():
            for job in jobs:
                found = job.result() or {}
                rows.append(
                    Trial(
                        entry=entry,
                        title=self._title(entry),
                        learning_rate=job.rate,
                        seed=job.seed,
                        value=found.get("value"),
                        chosen=job.rate == rates[entry],
                        **{name: found[name] for name in names},
                    )
                )
        return rows

    def _results(self, found: dict[Job, dict[str, Any]]) -> list[Result]:
        rates, rows = self.rates(), []
        known = {field.name for field in dataclasses.fields(Result)}
        for size in self.sizes:
            counts = ("parameters", "parameters_without_embeddings", "state_bytes", "flops_per_token")
            training, suite = self.suite.entry(size.entry).training, self.suite
            common = {
                "suite": suite.title or suite.name,
                "kind": suite.kind,
                "metric": suite.metric_label,
                "better": suite.better,
                "control": suite.reference,
                "solved_at": suite.solved_at,
                "train_length": training.sequence if suite.kind == "text" else training.length,
                "entry": size.entry,
                "title": size.title,
                "learning_rate": rates[size.entry],
                **{name: getattr(size, name) for name in counts},
            }
            mine = {job.seed: result for job, result in found.items() if job.entry == size.entry}
            for seed, result in mine.items():
                numbers = {key: value for key, value in result.items() if key in known}
                row = Result(**{**common, "seed": seed, **numbers})
                rows.append(row.with_solved())
            if rates[size.entry] is None:
                reason = "every learning rate that was tried failed"
                rows += [Result(**common, seed=s, status="failed", reason=reason) for s in self.suite.all_seeds]
        return rows


def _write_suite(directory: Path, suite: SuiteConfig) -> None:
    write_yaml(directory / "suite.yaml", as_data(suite))


def write_yaml(path: Path, data: Any) -> None:
    """Writes a YAML file, keys in their order, replacing one that exists."""
    replace_file(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def write_environment(directory: Path, device: torch.device) -> None:
    """Writes environment.json: machine, device, versions and threads of the jobs."""
    write_json(directory / "environment.json", {**environment(device), "threads": 1})


def expect_device(directory: Path, device: torch.device) -> None:
    """Raises ConfigError if a comparison was begun on another kind of device, whose results are not comparable."""
    begun = (read_json(directory / "environment.json") or {}).get("device", "cpu")
    if kind_of(begun) != kind_of(describe(device)):
        raise ConfigError(f"--device: expected {begun}, where {directory} was begun, got {describe(device)}")
