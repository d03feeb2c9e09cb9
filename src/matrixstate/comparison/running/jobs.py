"""Jobs: one entry trained once, with one learning rate and one seed. A finished job has a result.json."""

import dataclasses
import json
import math
import os
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from matrixstate.comparison.suites.metrics import METRICS
from matrixstate.errors import CheckpointError, MatrixStateError
from matrixstate.training import Outcome, Run, RunConfig, TaskRunConfig, load_model, start, train
from matrixstate.training.checkpoint import list_checkpoints
from matrixstate.training.run import write_json
from matrixstate.training.runtime import resolve_precision
from matrixstate.training.settings import expect_settings
from matrixstate.training.stopping import Stopped
from matrixstate.training.thermometer import Reading

POINTS = 200  # of a curve, at most
SPIKE = 0.5  # nats above the mean of the previous losses
WINDOW = 20  # how many previous losses
Curves = Mapping[str, Sequence[tuple[float, float]]]
NO_PROGRESS = {"step": 0, "cpu_seconds": 0.0, "wall_seconds": 0.0}


@dataclass(frozen=True)
class Job:
    """All that a worker needs to train one entry once."""

    directory: Path
    """Holds result.json, progress.json and run/."""
    data: Path
    """The tokenized text, shared by all jobs; unused for a task."""
    kind: Literal["trial", "final"]
    config: RunConfig
    value_length: int | None = None
    """For a task: the length up to which the compared accuracy is measured. Default: the longest."""
    metric: str | None = None
    """The name of what is compared, of `METRICS`. Default: bits per byte of a text, accuracy on a task."""
    device: str = "cpu"
    """Where it is trained and measured."""

    @property
    def entry(self) -> str:
        return self.config.name

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def rate(self) -> float:
        return self.config.training.learning_rate

    @property
    def steps(self) -> int:
        return self.config.training.steps

    def result(self) -> dict[str, Any] | None:
        """The result of a finished job; None if it is not finished."""
        return read_json(self.directory / "result.json")

    def progress(self) -> dict[str, Any]:
        """Steps done and time taken so far: step, cpu_seconds, wall_seconds."""
        return read_json(self.directory / "progress.json") or dict(NO_PROGRESS)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is none. Raises CheckpointError for a damaged one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"compare: {path} is damaged: {error}") from error


@dataclass
class JobReporter:
    """A reporter that measures the time of a job over all its sessions and keeps progress.json up to date."""

    job: Job
    on_step: Callable[[int], None] | None = None
    step_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._before = self.job.progress()
        self._cpu, self._wall = time.process_time(), time.perf_counter()
        self._last_cpu, self._written, self._done = None, 0.0, int(self._before["step"])

    def spent(self) -> dict[str, float]:
        return {
            "cpu_seconds": self._before["cpu_seconds"] + time.process_time() - self._cpu,
            "wall_seconds": self._before["wall_seconds"] + time.perf_counter() - self._wall,
        }

    def write(self) -> None:
        """Writes progress.json."""
        self._written = time.perf_counter()
        write_json(self.job.directory / "progress.json", {"step": self._done, **self.spent()})

    def step(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        tokens_per_second: float,
        **observed: Any,
    ) -> None:
        self._done, now = step, time.process_time()
        if self._last_cpu is not None:
            self.step_seconds.append(now - self._last_cpu)
        self._last_cpu = now
        if time.perf_counter() - self._written > 0.5:
            self.write()
        if self.on_step is not None:
            self.on_step(step)

    def evaluated(self, step: int, nats_per_token: float) -> None:
        self._last_cpu = None  # the time of an evaluation is not part of a step

    def measured(self, step: int, readings: Sequence[Reading]) -> None: ...

    def warned(self, message: str) -> None: ...


def run_job(job: Job, on_step: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Trains or resumes training, writes result.json and returns it. Raises Stopped if a signal stopped it.

    A training that fails has a result too: the status "failed" and the reason.
    """
    job.directory.mkdir(parents=True, exist_ok=True)
    reporter = JobReporter(job, on_step)
    try:
        found = _train(job, reporter)
    except Stopped:
        reporter.write()
        raise
    except (MatrixStateError, MemoryError, RuntimeError) as error:  # must not stop the other jobs
        reason = " ".join(str(error).split()) or type(error).__name__
        found = {"status": "failed", "reason": reason, **_summarise_log(read_log(job.directory / "run"))}
    middle = statistics.median(reporter.step_seconds) if reporter.step_seconds else None
    found |= {"step_cpu_seconds": middle, **reporter.spent()}
    write_json(job.directory / "result.json", found)
    return found


def _train(job: Job, reporter: JobReporter) -> dict[str, Any]:
    """Trains the job's run, resumed from its newest checkpoint if it has one."""
    directory, device = job.directory / "run", torch.device(job.device)
    if (directory / "config.yaml").exists():
        run = Run.open(directory)
        resume = bool(list_checkpoints(run.checkpoints))
    elif isinstance(job.config, TaskRunConfig):
        run, resume = start(directory, job.config, device), False
    else:
        expect_settings(job.config, device)
        config = resolve_precision(job.config, device)
        run, resume = Run.create(directory, config, lambda into: link_tree(job.data, into), device), False
    outcome = train(run, [reporter], resume=resume, device=device)
    if outcome.evaluation is None:  # stopped before the last evaluation
        raise Stopped(outcome.stopped or signal.SIGINT)
    found = _summarise_log(run.metrics())
    value, curves = _of_task(job, outcome) if isinstance(job.config, TaskRunConfig) else _of_text(outcome)
    if job.metric is not None:
        value |= {"value": METRICS[job.metric]().measure(load_model(run, device=device), run), "item_error": None}
    found["curves"] |= curves
    return {"status": "done", "reason": "", "tokens": outcome.progress.tokens, **value, **found}


def _of_task(job: Job, outcome: Outcome) -> tuple[dict[str, Any], Curves]:
    """What a result holds of an evaluation on a task, and its curves."""
    config, tracking = job.config, outcome.tracking
    assert isinstance(config, TaskRunConfig)
    assert tracking is not None
    longest, solved = config.evaluate_length, outcome.solved_at
    accuracy = tracking.token_accuracy(job.value_length or longest)
    value = {
        "value": accuracy,
        # an upper bound: accuracies of single sequences with this mean vary most if each is 0 or 1
        "item_error": math.sqrt(accuracy * (1 - accuracy) / config.evaluate_sequences),
        "items": config.evaluate_sequences,
        "value_at_train_length": tracking.token_accuracy(config.training.length),
        "tail_accuracy": tracking.tail_accuracy(longest),
        "all_correct": tracking.all_correct(longest),
        "value_at_longest": tracking.token_accuracy(longest),
        "horizon": tracking.whole_horizon(0.9),
        "tail_horizon": tracking.horizon(0.999),
        "solved_step": None if solved is None else solved[0],
        "solved_cpu_seconds": None if solved is None else solved[1],
    }
    return value, {"accuracy": tracking.curve()}


def _of_text(outcome: Outcome) -> tuple[dict[str, Any], Curves]:
    """What a result holds of an evaluation on a text, and its curves."""
    loss = outcome.validation
    assert loss is not None
    to_bits = loss.bits_per_byte / loss.nats_per_token
    value = {
        "value": loss.bits_per_byte,
        "nats_per_token": loss.nats_per_token,
        "item_error": None if loss.standard_error is None else loss.standard_error * to_bits,
        "items": loss.tokens // loss.window,
    }
    # each range of positions at its geometric mean, for a logarithmic axis
    positions = [(math.sqrt((part.first + 1) * part.end), part.nats_per_token) for part in loss.by_position]
    return value, {"loss by position": positions}


def link_tree(source: Path, target: Path) -> None:
    """Makes `target` a copy of `source`, by hard links where the file system allows them."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copyfile(one, other)

    shutil.copytree(source, target, copy_function=link)


def read_log(run: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's metrics.jsonl; none if it failed before the first."""
    path = run / "metrics.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def _summarise_log(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Steps, curves, number of spikes and size of the states, from the log of a run."""
    losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    sizes = [(line["step"], max(map(_largest, line["states"]))) for line in lines if line.get("states")]
    return {
        "steps": losses[-1][0] if losses else 0,
        "spikes": spikes([loss for _, loss in losses]),
        "state_log10": max((size for _, size in sizes), default=None),
        "curves": {
            "training loss": thin(smooth(losses)),
            "validation loss": [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line],
            "state size": thin(sizes),
        },
    }


def _largest(reading: dict[str, Any]) -> float:
    """log10 of the largest norm of a layer's heads; infinite if none is known."""
    return max((n for n in reading["log_norm"] if n is not None), default=math.inf) / math.log(10)


def spikes(losses: Sequence[float]) -> int:
    """How often the loss rises more than half a nat above the mean of the twenty before it; once per rise."""
    found, inside = 0, False
    for i in range(WINDOW, len(losses)):
        # a rise lasts until the loss is back near the mean
        above = losses[i] > statistics.fmean(losses[i - WINDOW : i]) + SPIKE
        found, inside = found + (above and not inside), above
    return found


def smooth(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """An exponential mean over about a fiftieth of the points, unbiased at the start."""
    decay = 1 - min(1, 50 / max(len(points), 1))
    out, mean, weight = [], 0.0, 0.0
    for x, y in points:
        mean, weight = decay * mean + (1 - decay) * y, decay * weight + (1 - decay)
        out.append((x, mean / weight))
    return out


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` of the points, evenly spaced and with the last one."""
    stride = max(1, math.ceil(len(points) / POINTS))
    return [*points[::-1][::stride][::-1]]


def with_training(config: Any, steps: int, rate: float, seed: int) -> Any:
    """The same run with other steps, learning rate and seed."""
    training = dataclasses.replace(config.training, steps=steps, learning_rate=rate)
    return dataclasses.replace(config, training=training, seed=seed)
