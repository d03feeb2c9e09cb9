"""Training on synthetic tasks: fresh sequences every step, and a length that grows as they are mastered."""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from matrixstate.configs import encode
from matrixstate.data.tasks import IGNORE
from matrixstate.errors import ConfigError, Diverged
from matrixstate.evaluation.tracking import Tracking, track
from matrixstate.models import LanguageModel
from matrixstate.training.checkpoint import choose_checkpoint, load_weights, save_checkpoint
from matrixstate.training.correction import corrected_mixers, find_codes, with_codebooks, with_correction
from matrixstate.training.fit import expect_fit
from matrixstate.training.optimizer import learning_rate, make_optimizer, set_rate
from matrixstate.training.report import Reporter
from matrixstate.training.run import environment, replace_file, write_json
from matrixstate.training.stopping import Stopped, stopping
from matrixstate.training.task_config import TASK_CHOICES, TaskRunConfig, TaskTrainingConfig, load_task_config

MASTERED = 0.99  # the accuracy whose cost is reported


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
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + step) % 2**63)
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


def load_task_model(directory: Path) -> tuple[LanguageModel, TaskRunConfig]:
    """The trained model of a task's run, in evaluation mode, and its config."""
    config = load_task_config(directory)
    model = LanguageModel(config.sized_model())
    load_weights(choose_checkpoint(directory / "checkpoints"), model)
    return model.eval(), config


def expect_task_fit(config: TaskRunConfig) -> None:
    """Raises ConfigError where the model has not the parameters or positions that the training asks for."""
    lengths = {"training.length": config.training.length, "evaluate_length": config.evaluate_length}
    expect_fit(config.sized_model(), config.training.rates, lengths)


def train_task(directory: Path, config: TaskRunConfig, reporters: Sequence[Reporter] = ()) -> TaskOutcome:
    """Trains on a task and measures how far the model tracks; `directory`, new or empty, holds what is left behind.

    config.yaml, environment.json, metrics.jsonl (a line per step), checkpoints/, tracking.json and status.json.

    Raises:
        ConfigError: the directory holds files or cannot be made, or the model has not what the training asks for.
        Diverged: more than `max_skipped` steps with a loss or gradient that is not finite.
        Stopped: by SIGINT or SIGTERM; nothing can be gone on with.
    """
    expect_task_fit(config)
    _begin(directory, config)
    try:
        session = _Session(config, reporters)
        with (directory / "metrics.jsonl").open("w", encoding="utf-8") as log, stopping() as stop:
            while session.done < config.training.steps:
                log.write(json.dumps(session.step()) + "\n")
                if stop.signal is not None:
                    raise Stopped(stop.signal)
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


def _begin(directory: Path, config: TaskRunConfig) -> None:
    """Makes the directory of a run."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise ConfigError(f"out: expected a new or empty directory, got {directory} with files in it")
    except OSError as error:
        raise ConfigError(f"out: cannot write {directory}: {error.strerror}") from error
    replace_file(directory / "config.yaml", yaml.safe_dump(encode(config, TASK_CHOICES), sort_keys=False))
    write_json(directory / "environment.json", environment())
    write_json(directory / "status.json", {"status": "running"})


def correct_run(
    run: Path, directory: Path, every: int, codes: int | None = None, sharpness: float = 16.0
) -> tuple[LanguageModel, TaskRunConfig]:
    """The trained model of a task's run with error correction: what training with `codebooks` would have given.

    Args:
        run: of a model with uncorrected MRUs.
        directory: new or empty; holds the corrected model's run then, with the log of its training.
        every: steps from one correction to the next.
        codes: as in `find_codes`: so many clusters of states; None for the mean state of every answer.
        sharpness: `MRUConfig.sharpness`.

    Raises:
        ConfigError: an MRU that cannot be corrected, or a directory that holds files or cannot be made.
    """
    model, config = load_task_model(run)
    found = find_codes(model, config.task, config.training.length, codes, config.seed)
    sizes = with_correction(config.model, every, len(next(iter(found.values()))), sharpness)
    training = dataclasses.replace(config.training, codebooks="answers" if codes is None else "clusters")
    config = dataclasses.replace(config, model=sizes, training=training)
    model = with_codebooks(model, config.sized_model(), found)
    _begin(directory, config)
    shutil.copyfile(run / "metrics.jsonl", directory / "metrics.jsonl")
    optimizer = make_optimizer(model, config.training)
    save_checkpoint(directory / "checkpoints", config.training.steps, model, optimizer, keep=1)
    write_json(directory / "status.json", {"status": "done", "steps": config.training.steps})
    return model, config


class _Session:
    """A model in training on a task."""

    def __init__(self, config: TaskRunConfig, reporters: Sequence[Reporter]) -> None:
        torch.manual_seed(config.seed)
        self.config, self.reporters = config, reporters
        sized = config.sized_model()
        self.model = LanguageModel(sized if config.training.codebooks == "trained" else with_correction(sized, 0))
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
        set_rate(self.optimizer, rate)
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
        if self.solved_at is None and length == self.config.training.length and mean >= MASTERED:
            self.solved_at = self.done, time.process_time() - self._cpu

    def finish(self) -> None:
        """Makes the codebooks, if they are not trained."""
        config, sized = self.config, self.config.sized_model()
        if config.training.codebooks != "trained":
            most = max(mixer.codes for mixer in corrected_mixers(sized))
            codes = most if config.training.codebooks == "clusters" else None
            found = find_codes(self.model, config.task, config.training.length, codes, config.seed)
            self.model = with_codebooks(self.model, sized, found)

    def outcome(self) -> TaskOutcome:
        """The end of training, and how far the model tracks."""
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        config = self.config
        tracking = track(self.model, config.task, config.measured_lengths, sequences=config.evaluate_sequences)
        return TaskOutcome(self.done, self.tokens, self.skipped, wall, cpu, self.solved_at, tracking)
