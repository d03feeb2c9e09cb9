"""Training on synthetic tasks: fresh sequences every step, and a length that grows as they are mastered."""

import dataclasses
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from matrixstate.configs import Choices, decode, encode, load_yaml, override
from matrixstate.data.tasks import IGNORE, TASKS, TaskConfig
from matrixstate.errors import CheckpointError, ConfigError, Diverged, require
from matrixstate.evaluation.tracking import Tracking, track
from matrixstate.models import LanguageModel, ModelConfig
from matrixstate.training.checkpoint import find_checkpoint, load_weights, save_checkpoint
from matrixstate.training.config import CHOICES
from matrixstate.training.correction import corrects, states_by_answer, with_codebooks, with_correction
from matrixstate.training.optimizer import learning_rate, make_optimizer
from matrixstate.training.report import Reporter
from matrixstate.training.run import environment, replace_file, write_json
from matrixstate.training.stopping import stopping

TASK_CHOICES: Choices = {**CHOICES, TaskConfig: TASKS}
MASTERED = 0.99  # the accuracy whose cost is reported


@dataclass(frozen=True)
class TaskTrainingConfig:
    """How a model is trained on a task. The defaults are those of the study behind our protocols."""

    steps: int = 1000
    """Optimizer steps."""
    length: int = 128
    """Steps of the longest training sequences."""
    lengths: Literal["grow", "uniform", "full"] = "grow"
    """grow: from `start`, doubled whenever mastered; uniform: any from `start` to `length`; full: `length` only."""
    start: int = 2
    """The shortest training sequences."""
    threshold: float = 0.95
    """Smoothed accuracy over a batch at which the length grows."""
    batch: int = 64
    """Sequences per step at full length."""
    max_batch: int = 256
    """Sequences per step where they are short; as many as fill a batch of full length, up to this."""
    learning_rate: float = 3e-3
    warmup: int = 50
    """Steps over which the learning rate rises from zero."""
    final_share: float = 0.05
    """The cosine ends at this share of the learning rate."""
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.01
    """On weight matrices; not on norms, gates, biases, filters and recurrent weights."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    codebooks: Literal["trained", "fitted"] = "trained"
    """Of MRUs that correct their state. trained: with all else, from the first step; fitted: training is without
    correction, and afterwards the mean states of every answer become the codes. The answer must say the state."""
    max_skipped: int = 100
    """How many steps with a loss or gradient that is not finite are skipped before the run fails."""

    def __post_init__(self) -> None:
        counts = ("steps", "length", "start", "batch", "max_batch")
        require(
            *((getattr(self, n) > 0, f"{n}: expected at least 1, got {getattr(self, n)}") for n in counts),
            (self.start <= self.length, f"start: expected at most length = {self.length}, got {self.start}"),
            (self.max_batch >= self.batch, f"max_batch: expected at least batch = {self.batch}, got {self.max_batch}"),
            (0 < self.threshold <= 1, f"threshold: expected a share above 0, got {self.threshold}"),
            (self.warmup >= 0, f"warmup: expected 0 or more, got {self.warmup}"),
            (0 < self.learning_rate < math.inf, f"learning_rate: expected a positive number, got {self.learning_rate}"),
            (0 <= self.final_share <= 1, f"final_share: expected a share from 0 to 1, got {self.final_share}"),
            (0 <= self.beta1 < 1, f"beta1: expected a number in [0, 1), got {self.beta1}"),
            (0 <= self.beta2 < 1, f"beta2: expected a number in [0, 1), got {self.beta2}"),
            (0 <= self.weight_decay < math.inf, f"weight_decay: expected 0 or more, got {self.weight_decay}"),
            (0 < self.clip < math.inf, f"clip: expected a positive number, got {self.clip}"),
            (self.max_skipped >= 0, f"max_skipped: expected 0 or more, got {self.max_skipped}"),
        )


@dataclass(frozen=True)
class TaskRunConfig:
    """A run on a task: a name, a seed, a model, how it is trained and how far it is tested."""

    name: str
    model: ModelConfig
    task: TaskConfig
    training: TaskTrainingConfig = dataclasses.field(default_factory=TaskTrainingConfig)
    evaluate_length: int = 8192
    """The longest sequences of the evaluation."""
    evaluate_sequences: int = 64
    """Sequences of the evaluation; the same for every model and seed."""
    seed: int = 0
    """Of the weights and the training sequences."""

    def __post_init__(self) -> None:
        wanted, given = self.task.vocabulary, self.model.vocabulary
        require(
            (self.seed >= 0, f"seed: expected 0 or more, got {self.seed}"),
            (self.evaluate_length > 0, f"evaluate_length: expected at least 1, got {self.evaluate_length}"),
            (self.evaluate_sequences > 0, f"evaluate_sequences: expected at least 1, got {self.evaluate_sequences}"),
            (
                given is None or given >= wanted,
                f"model.vocabulary: expected at least {wanted}, the task's, got {given}",
            ),
            (
                self.training.codebooks == "trained" or corrects(self.model),
                "training.codebooks: expected trained without an MRU that corrects its state (snap), got fitted",
            ),
        )

    def sized_model(self) -> ModelConfig:
        """The model with the task's vocabulary where it names none."""
        return dataclasses.replace(self.model, vocabulary=self.model.vocabulary or self.task.vocabulary)


@dataclass(frozen=True)
class TaskOutcome:
    """How a training on a task ended."""

    steps: int
    tokens: int  # trained on
    skipped: int  # steps that were not finite
    seconds: float  # wall time of training
    cpu_seconds: float  # of this process, training
    solved_at: tuple[int, float] | None  # step and CPU seconds when 99 % at full length was reached
    tracking: Tracking


class Curriculum:
    """The length of each step's sequences."""

    def __init__(self, config: TaskTrainingConfig, seed: int) -> None:
        self.config = config
        self.current = config.start if config.lengths == "grow" else config.length
        self._seed, self._mean, self._seen = seed, 0.0, 0

    def length(self, step: int) -> int:
        """Of the sequences of a step, counted from 0."""
        if self.config.lengths != "uniform":
            return self.current
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        span = self.config.length - self.config.start + 1
        return self.config.start + int(torch.randint(span, (), generator=generator))

    def batch(self, length: int) -> int:
        """How many sequences of that length make a step."""
        return min(self.config.max_batch, max(self.config.batch, self.config.batch * self.config.length // length))

    def learned(self, accuracy: float) -> float:
        """Takes note of a batch's accuracy; returns the smoothed one, after which the length may have grown."""
        self._seen += 1
        rate = max(0.1, 1 / self._seen)
        self._mean += rate * (accuracy - self._mean)
        mean = self._mean
        if self.config.lengths == "grow" and mean >= self.config.threshold and self.current < self.config.length:
            self.current = min(2 * self.current, self.config.length)
            self._mean, self._seen = 0.0, 0
        return mean


def names_task(path: Path) -> bool:
    """Whether a YAML file describes a training on a task, not on a text. Raises ConfigError if it is none."""
    return "task" in load_yaml(path)


def load_task(path: Path, assignments: Iterable[str] = ()) -> TaskRunConfig:
    """The run that a YAML file describes, with "a.b=value" overrides. Raises ConfigError with every mistake."""
    data = override(load_yaml(path), assignments)
    data.setdefault("name", path.stem)
    return decode(TaskRunConfig, data, TASK_CHOICES)


def load_task_config(directory: Path) -> TaskRunConfig:
    """The config of a task's run. Raises CheckpointError if it is missing or damaged."""
    path = directory / "config.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(data, dict) and "task" not in data:
            raise ConfigError("it names no task")
        return decode(TaskRunConfig, data, TASK_CHOICES)
    except OSError as error:
        raise CheckpointError(f"run: expected a task's run with {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ConfigError) as error:
        raise CheckpointError(f"run: expected a task's run with {path}: {' '.join(str(error).split())}") from error


def load_task_model(directory: Path) -> tuple[LanguageModel, TaskRunConfig]:
    """The trained model of a task's run, in evaluation mode, and its config."""
    config = load_task_config(directory)
    model = LanguageModel(config.sized_model())
    checkpoint, _ = find_checkpoint(directory / "checkpoints")
    load_weights(checkpoint, model)
    return model.eval(), config


def train_task(directory: Path, config: TaskRunConfig, reporters: Sequence[Reporter] = ()) -> TaskOutcome:
    """Trains on a task and measures how far the model tracks; `directory`, new or empty, holds what is left behind.

    config.yaml, environment.json, metrics.jsonl (a line per step), checkpoints/, tracking.json and status.json.

    Raises:
        ConfigError: the directory holds files or cannot be made.
        Diverged: more than `max_skipped` steps with a loss or gradient that is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM; nothing can be gone on with.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigError(f"out: expected a new or empty directory, got {directory} with files in it")
    except OSError as error:
        raise ConfigError(f"out: cannot write {directory}: {error.strerror}") from error
    replace_file(directory / "config.yaml", yaml.safe_dump(encode(config, TASK_CHOICES), sort_keys=False))
    write_json(directory / "environment.json", environment())
    write_json(directory / "status.json", {"status": "running"})
    try:
        session = _Session(config, reporters)
        with (directory / "metrics.jsonl").open("w", encoding="utf-8") as log, stopping() as stop:
            while session.done < config.training.steps:
                log.write(json.dumps(session.step()) + "\n")
                if stop:
                    raise KeyboardInterrupt
        session.finish()
        save_checkpoint(directory / "checkpoints", session.done, session.model, session.optimizer, keep=1)
        outcome = session.outcome()
    except BaseException as error:
        reason = str(error) or type(error).__name__
        write_json(directory / "status.json", {"status": "failed", "reason": reason})
        raise
    write_json(directory / "tracking.json", outcome.tracking.data())
    numbers = {k: v for k, v in dataclasses.asdict(outcome).items() if k != "tracking"}
    write_json(directory / "status.json", {"status": "done", **numbers})
    return outcome


class _Session:
    """A model in training on a task."""

    def __init__(self, config: TaskRunConfig, reporters: Sequence[Reporter]) -> None:
        torch.manual_seed(config.seed)
        self.config, self.reporters = config, reporters
        sized, fitted = config.sized_model(), config.training.codebooks == "fitted"
        self.model = LanguageModel(with_correction(sized, 0) if fitted else sized)
        self.optimizer = make_optimizer(self.model, config.training)
        self.curriculum = Curriculum(config.training, config.seed)
        self.done = self.tokens = self.skipped = 0
        self.solved_at: tuple[int, float] | None = None
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def step(self) -> dict[str, Any]:
        """One optimizer step; the line for the log."""
        config, began = self.config.training, time.perf_counter()
        length = self.curriculum.length(self.done)
        batch = self.curriculum.batch(length)
        tokens, targets = self.config.task.at(self.config.seed, self.done, batch, length)
        rate = learning_rate(config, self.done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        logits, _ = self.model(tokens)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        loss.backward()
        norm = float(clip_grad_norm_(self.model.parameters(), config.clip))
        finite = math.isfinite(loss.item()) and math.isfinite(norm)
        if finite:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        self.tokens += tokens.numel()
        due = targets != IGNORE
        accuracy = float((logits.detach().argmax(-1) == targets)[due].float().mean())
        mean = self.curriculum.learned(accuracy) if finite else 0.0
        self._note(finite, mean, length)
        for reporter in self.reporters:
            reporter.step(self.done, loss.item(), rate, norm, tokens.numel() / (time.perf_counter() - began))
        return {"step": self.done, "length": length, "loss": loss.item(), "accuracy": accuracy, "gradient_norm": norm}

    def _note(self, finite: bool, mean: float, length: int) -> None:
        if not finite:
            self.skipped += 1
            if self.skipped > self.config.training.max_skipped:
                raise Diverged(f"training: expected finite losses and gradients, got {self.skipped} steps without")
        at_length = self.config.training.lengths == "uniform" or length == self.config.training.length
        if self.solved_at is None and at_length and mean >= MASTERED:
            self.solved_at = self.done, time.process_time() - self._cpu

    def finish(self) -> None:
        """Fits the codebooks, if that is asked for."""
        config = self.config
        if config.training.codebooks == "fitted":
            codes = states_by_answer(self.model, config.task, config.training.length, config.seed)
            self.model = with_codebooks(self.model, config.sized_model(), codes)

    def outcome(self) -> TaskOutcome:
        """The end of training, and how far the model tracks."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        longest, trained = self.config.evaluate_length, self.config.training.length
        doublings = tuple(trained * 2**k for k in range(longest.bit_length()) if trained * 2**k < longest)
        tracking = track(self.model, self.config.task, (*doublings, longest), sequences=self.config.evaluate_sequences)
        return TaskOutcome(self.done, self.tokens, self.skipped, wall, cpu, self.solved_at, tracking)
