"""The training loop."""

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from matrixstate.data import Corpus, RandomWindows, open_corpus, tokenize
from matrixstate.data.corpus import TokenizedText, Tokens
from matrixstate.errors import ConfigError, Diverged, MatrixStateError
from matrixstate.evaluation import TextLoss, text_loss
from matrixstate.models import LanguageModel, ModelState, count
from matrixstate.training.checkpoint import (
    Best,
    choose_checkpoint,
    find_checkpoint,
    load_training,
    load_weights,
    mark_best,
    read_best,
    save_checkpoint,
)
from matrixstate.training.config import RunConfig
from matrixstate.training.fit import expect_fit
from matrixstate.training.guard import write_bundle
from matrixstate.training.optimizer import learning_rate, make_optimizer, set_rate
from matrixstate.training.plan import BYTES_PER_PARAMETER
from matrixstate.training.report import Reporter, RunLog, TensorBoardLog
from matrixstate.training.run import Run
from matrixstate.training.stopping import Stop, stopping
from matrixstate.training.thermometer import OverflowWatch, Thermometer


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    step: int
    """Optimizer steps done."""
    stopped: int | None
    """The signal that stopped it early; None if it ran to its end."""
    validation: TextLoss | None
    """The loss over the whole validation text; None if it was stopped."""
    tokens_per_second: float
    """Of training, without evaluation."""


def start(directory: Path, config: RunConfig) -> Run:
    """A new run with its text made into tokens; the config gets the tokenizer's vocabulary if it names none.

    Raises ConfigError or DataError before anything is written where text, tokenizer and model do not fit together.
    """
    text = tokenize(config.data)
    _expect_memory(config := fit(config, text))
    return Run.create(directory, config, text.write)


def fit(config: RunConfig, text: TokenizedText) -> RunConfig:
    """The config with the tokenizer's vocabulary if it names none.

    Raises ConfigError or DataError where text, tokenizer, model and training do not fit together.
    """
    size, wanted = text.tokenizer.size, config.model.vocabulary
    if wanted is not None and size > wanted:
        raise ConfigError(f"model.vocabulary: expected at least {size}, the tokenizer's, got {wanted}")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocabulary=wanted or size))
    expect_trainable(config, text.parts["train"])
    return config


def expect_trainable(config: RunConfig, tokens: Tokens) -> None:
    """Raises ConfigError or DataError where the model's sizes or training do not fit each other or the text."""
    training = config.training
    RandomWindows(tokens, training.sequence, training.batch, config.seed)
    expect_fit(config.model, training.rates, {"training.sequence": training.sequence})


def _expect_memory(config: RunConfig) -> None:
    """Raises ConfigError for a model whose weights and optimizer are larger than this machine's memory."""
    needed = count(config.model, config.training.sequence).parameters * BYTES_PER_PARAMETER
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ConfigError(
            f"model: expected at most this machine's {memory / 1e9:.0f} GB for weights and optimizer, "
            f"got a model that needs {needed / 1e9:,.0f} GB"
        )


def train(
    run: Run, reporters: Sequence[Reporter] = (), *, resume: bool = False, stop_after: int | None = None
) -> Outcome:
    """Trains the run's model to its last step, or until SIGINT or SIGTERM, or for `stop_after` more steps.

    With `resume` it goes on from the newest undamaged checkpoint, bit for bit as if it had not stopped. Whichever way
    it ends, the last step is saved; on a second signal the process ends at once.

    Raises:
        Diverged: a loss or gradient that is not finite, before the weights move (or after `max_skipped` such steps);
            the run's failures/ hold what is needed to find out why.
        CheckpointError: the run is damaged, or a checkpoint cannot be written.
    """
    training = run.config.training
    with stopping() as stop:
        session = _Session(run, reporters, resume, stop)
        last = training.steps if stop_after is None else min(training.steps, session.done + stop_after)
        try:
            whole = _advance(session, last)
        except MatrixStateError as error:
            with suppress(OSError):  # a full disk may be the reason
                run.finish("failed", step=session.done, reason=str(error))
            raise
    return Outcome(session.done, stop.signal if whole is None else None, whole, session.speed())


def _advance(session: "_Session", last: int) -> TextLoss | None:
    """Trains until `last` or a signal; the loss over the whole validation text if that was the run's last step."""
    run, training = session.run, session.config
    run.finish("running", step=session.done)
    if session.owes_a_look():
        session.look()
    while session.done < last and not session.stop:
        session.step()
        if session.done % training.evaluate_every == 0 and session.done < training.steps:
            session.look()
        if session.done % training.checkpoint_every == 0 and session.done < last:
            session.save()
    session.save()
    whole = session.finish() if session.done == training.steps else None
    if whole is None:
        run.finish("stopped", step=session.done)
    return whole


class _Stopped(Exception):
    """Leaves an evaluation early; the training state does not depend on it."""


class _Session:
    """A run in training: the model and everything that changes with it."""

    def __init__(self, run: Run, reporters: Sequence[Reporter], resume: bool, stop: Stop) -> None:
        self.run, self.config, self.stop = run, run.config.training, stop
        self.corpus = open_corpus(run.data)
        torch.manual_seed(run.config.seed)
        self.model = LanguageModel(run.config.model)
        self.optimizer = make_optimizer(self.model, self.config)
        self.reporters = [RunLog(run), *([TensorBoardLog(run)] if self.config.tensorboard else []), *reporters]
        self.done = self._go_on() if resume else 0
        run.forget_after(self.done)
        self.skipped = sum("skipped" in line for line in run.metrics())
        best = read_best(run.checkpoints)
        self.best = math.inf if best is None or best.step > self.done else best.nats_per_token
        self.batches = RandomWindows(self.corpus.train, self.config.sequence, self.config.batch, run.config.seed)
        self.thermometer, self.watch = Thermometer(self.model), OverflowWatch()
        self.first, self.seconds = self.done, 0.0

    def _go_on(self) -> int:
        checkpoint, damages = find_checkpoint(self.run.checkpoints)
        for damage in damages:
            self._warn(f"{damage}; going on from {checkpoint.name}")
        return load_training(checkpoint, self.model, self.optimizer)

    def _warn(self, message: str) -> None:
        for reporter in self.reporters:
            reporter.warned(message)

    def step(self) -> None:
        """One step of the optimizer, or none if its gradient is not finite and the config says to skip it."""
        began, number = time.perf_counter(), self.done + 1
        reading = self.thermometer.due(number)
        random = torch.get_rng_state()
        inputs, targets = self.batches.at(self.done)
        rate = learning_rate(self.config, self.done)
        set_rate(self.optimizer, rate)
        loss, norm, state = self._gradient(inputs, targets)
        if math.isfinite(loss) and math.isfinite(norm):
            self.optimizer.step()
        else:
            self._fail(number, inputs, targets, random, loss, norm)
        self.optimizer.zero_grad()
        self.seconds += (seconds := time.perf_counter() - began)
        self.done = number
        if math.isfinite(loss) and math.isfinite(norm):
            for reporter in self.reporters:
                reporter.step(number, loss, rate, norm, self.config.batch * self.config.sequence / seconds)
        if reading:
            self._read_states(number, state)

    def _gradient(self, inputs: Tensor, targets: Tensor) -> tuple[float, float, ModelState]:
        """Leaves the clipped gradient in the parameters; returns loss, norm before clipping, and the last states."""
        self.model.train()
        loss, parts = 0.0, self.config.accumulate
        state = None
        for some_inputs, some_targets in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16"):
                logits, state = self.model(some_inputs)
            part = cross_entropy(logits.flatten(0, 1).float(), some_targets.flatten()) / parts
            auxiliary = self.model.auxiliary_loss()
            (part if auxiliary is None else part + auxiliary / parts).backward()
            loss += part.item()
        assert state is not None
        return loss, float(clip_grad_norm_(self.model.parameters(), self.config.clip)), state

    def _fail(self, step: int, inputs: Tensor, targets: Tensor, random: Tensor, loss: float, norm: float) -> None:
        bundle = write_bundle(self.run, step, self.model, inputs, targets, random, loss, norm)
        what = f"step {step}: expected a finite loss and gradient, got loss {loss} and gradient norm {norm}"
        self.skipped += 1
        if self.config.on_nonfinite == "skip" and self.skipped <= self.config.max_skipped:
            self.run.log(step=step, skipped=f"loss {loss}, gradient norm {norm}")
            self._warn(f"{what}; skipped ({self.skipped} of at most {self.config.max_skipped}), kept in {bundle}")
            return
        torch.set_rng_state(random)
        self.save()
        raise Diverged(f"training: {what}; the weights are those before it; look into: matrixstate autopsy {bundle}")

    def _read_states(self, step: int, state: ModelState) -> None:
        readings = self.thermometer.read(state, self.config.sequence)
        for reporter in self.reporters:
            reporter.measured(step, readings)
        warning = self.watch.look(step, readings)
        if warning is not None:
            self._warn(warning)

    def owes_a_look(self) -> bool:
        """Whether the run stopped between a step and the look at the validation text that belongs to it."""
        due = 0 < self.done < self.config.steps and self.done % self.config.evaluate_every == 0
        return due and not any(m["step"] == self.done and "validation_loss" in m for m in self.run.metrics())

    def look(self) -> None:
        """Reads part of the validation text; saves if the model has never been better. Left early when stopped."""
        loss = self._evaluate(self.config.evaluate_tokens)
        if loss is not None and loss.nats_per_token < self.best:
            self.best = loss.nats_per_token
            self.save()
            mark_best(self.run.checkpoints, Best(self.done, self.best))

    def save(self) -> None:
        """Writes a checkpoint."""
        run, keep = self.run, self.config.keep
        save_checkpoint(run.checkpoints, self.done, self.model, self.optimizer, keep, run.config)

    def finish(self) -> TextLoss | None:
        """Reads the whole validation text and closes the run; None when stopped meanwhile."""
        whole = self._evaluate(None)
        if whole is not None:
            numbers = {"nats_per_token": whole.nats_per_token, "bits_per_byte": whole.bits_per_byte}
            self.run.finish("done", step=self.done, **numbers)
        return whole

    def _evaluate(self, tokens: int | None) -> TextLoss | None:
        def leave_if_stopped(done: int, total: int) -> None:
            if self.stop:
                raise _Stopped

        try:
            loss = validation_loss(self.model, self.corpus, self.config.sequence, tokens, leave_if_stopped)
        except _Stopped:
            return None
        for reporter in self.reporters:
            reporter.evaluated(self.done, loss.nats_per_token)
        return loss

    def speed(self) -> float:
        """Tokens per second of training, since this session began."""
        tokens = (self.done - self.first) * self.config.batch * self.config.sequence
        return tokens / self.seconds if self.seconds else 0.0


def validation_loss(
    model: LanguageModel,
    corpus: Corpus,
    window: int,
    tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TextLoss:
    """The loss over the validation text in windows, or over its first `tokens`."""
    part = corpus.validation[:tokens]
    return text_loss(model, part, corpus.tokenizer.decode(part.tolist()), window=window, progress=progress)


def load_model(run: Run, which: str = "latest") -> LanguageModel:
    """The run's model with the weights of a checkpoint ("latest", "best" or a step), in evaluation mode."""
    model = LanguageModel(run.config.model)
    load_weights(choose_checkpoint(run.checkpoints, which), model)
    return model.eval()
