"""The training loop, the same for every run: a stream gives the batches, a runtime the device and precision."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from matrixstate.data import Batch
from matrixstate.data.tasks import IGNORE
from matrixstate.errors import CheckpointError, Diverged, MatrixStateError
from matrixstate.evaluation import TextLoss
from matrixstate.evaluation.tracking import Tracking
from matrixstate.models import LanguageModel, ModelState
from matrixstate.training.checkpoint import Best, find_checkpoint, load_training, mark_best, step_of
from matrixstate.training.guard import write_bundle
from matrixstate.training.optimizer import learning_rate, make_optimizer, set_rate
from matrixstate.training.report import Reporter, RunLog, TensorBoardLog
from matrixstate.training.resume import Progress, best_loss, read_progress, save_progress, saved_model
from matrixstate.training.run import Run, write_json
from matrixstate.training.runtime import Clock, Runtime
from matrixstate.training.stopping import Stop, stopping
from matrixstate.training.streams import Evaluation, open_stream
from matrixstate.training.thermometer import OverflowWatch, Thermometer

Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    progress: Progress
    """Steps and tokens done, and the time they took, over all sessions."""
    stopped: int | None
    """The signal that stopped it early; None if it ran to its end."""
    evaluation: Evaluation | None
    """Of the finished model; None if it was stopped."""
    skipped: int
    """Steps whose loss or gradient was not finite."""
    tokens_per_second: float
    """Of this session's training, without evaluation."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.progress.step

    @property
    def validation(self) -> TextLoss | None:
        """The loss over the whole validation text, of a finished run on a text."""
        result = None if self.evaluation is None else self.evaluation.result
        return result if isinstance(result, TextLoss) else None

    @property
    def tracking(self) -> Tracking | None:
        """How far the model tracks, of a finished run on a task."""
        result = None if self.evaluation is None else self.evaluation.result
        return result if isinstance(result, Tracking) else None

    @property
    def solved_at(self) -> tuple[int, float] | None:
        """Step and CPU seconds at which 99 % at full length was reached, of a finished run on a task that did."""
        return None if self.evaluation is None else self.evaluation.numbers.get("solved_at")


def train(
    run: Run, reporters: Sequence[Reporter] = (), *, resume: bool = False, stop_after: int | None = None
) -> Outcome:
    """Trains the run's model to its last step, or until SIGINT or SIGTERM, or for `stop_after` more steps.

    With `resume` it continues from the newest undamaged checkpoint, bit for bit as if it had not stopped. Whichever way
    it ends, the last step is saved; on a second signal the process ends at once.

    Raises:
        Diverged: a loss or gradient that is not finite, before the weights change (or after `max_skipped` such steps);
            the run's failures/ hold what is needed to find out why.
        CheckpointError: the run is damaged, or a checkpoint cannot be written.
    """
    with stopping() as stop:
        session = _Session(run, reporters, resume, stop)
        steps, done = run.config.training.steps, session.progress.step
        try:
            evaluation = _advance(session, steps if stop_after is None else min(steps, done + stop_after))
        except MatrixStateError as error:
            with suppress(OSError):  # a full disk may be the reason
                run.finish("failed", step=session.progress.step, reason=str(error))
            raise
    stopped = stop.signal if evaluation is None else None
    return Outcome(session.progress, stopped, evaluation, session.skipped, session.speed())


def _advance(session: "_Session", last: int) -> Evaluation | None:
    """Trains until `last` or a signal; the evaluation of the finished model if that was the run's last step."""
    run, progress, training = session.run, session.progress, session.run.config.training
    run.finish("running", step=progress.step)
    if session.evaluation_is_missing():
        session.validate()
    while progress.step < last and not session.stop:
        session.step()
        if session.evaluates_after(progress.step):
            session.validate()
        if progress.step % training.checkpoint_every == 0 and progress.step < last:
            session.save()
    if progress.step == training.steps and not progress.finished:
        session.finish_model()
    session.save()
    evaluation = session.evaluate() if progress.step == training.steps else None
    if evaluation is None:
        run.finish("stopped", step=progress.step)
    return evaluation


class _Stopped(Exception):
    """Leaves an evaluation early; the training state does not depend on it."""


class _Session:
    """A run in training: the model and everything that changes with it."""

    def __init__(self, run: Run, reporters: Sequence[Reporter], resume: bool, stop: Stop) -> None:
        self.run, self.config, self.stop = run, run.config.training, stop
        self.stream, self.runtime = open_stream(run), Runtime(run.config.training.precision)
        self.reporters = [RunLog(run), *([TensorBoardLog(run)] if self.config.tensorboard else []), *reporters]
        self.saved: int | None = None
        self.progress = self._restore() if resume else self._begin()
        run.forget_after(self.progress.step)
        self.skipped = sum("skipped" in line for line in run.metrics())
        self.best = best_loss(run, self.progress.step)
        self.thermometer, self.watch = Thermometer(self.model), OverflowWatch()
        self.first = dataclasses.replace(self.progress)

    def _begin(self) -> Progress:
        self.runtime.seed(self.run.config.seed)
        self.model = self.runtime.place(LanguageModel(self.run.config.initial_model()))
        self.optimizer = make_optimizer(self.model, self.config)
        return Progress()

    def _restore(self) -> Progress:
        checkpoint, damages = find_checkpoint(self.run.checkpoints)
        for damage in damages:
            self._warn(f"{damage}; resuming from {checkpoint.name}")
        progress, stream = read_progress(checkpoint, step_of(checkpoint))
        self.model = self.runtime.place(LanguageModel(saved_model(self.run.config, checkpoint)))
        self.optimizer = make_optimizer(self.model, self.config)
        self.runtime.random_state = load_training(checkpoint, self.model, self.optimizer)
        if progress.step < self.config.steps:
            if progress.finished and self.run.config.final_model() != self.run.config.initial_model():
                raise CheckpointError(
                    f"run: expected training.steps of {progress.step}, got {self.config.steps}: the codebooks of "
                    f"{self.run.directory} are made, and its training cannot be resumed"
                )
            progress.finished = False
        self.stream.restore(stream)
        self.saved = progress.step
        return progress

    def _warn(self, message: str) -> None:
        for reporter in self.reporters:
            reporter.warned(message)

    def step(self) -> None:
        """One step of the optimizer, or none if its gradient is not finite and the config says to skip it."""
        clock, number = Clock(), self.progress.step + 1
        reading = self.thermometer.due(number)
        random = self.runtime.random_state
        batch = self.runtime.move(self.stream.batch(number - 1))
        rate = learning_rate(self.config, number - 1)
        set_rate(self.optimizer, rate)
        loss, norm, state, answers = self._gradient(batch)
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            self.optimizer.step()
        else:
            self._fail(number, batch, random, loss, norm)
        self.optimizer.zero_grad()
        self.progress.step, self.progress.tokens = number, self.progress.tokens + batch.tokens.numel()
        self.progress.seconds += (seconds := clock.seconds)
        self.progress.cpu_seconds += clock.cpu_seconds
        if finite:
            observed = self.stream.observe(number, batch, answers, self.progress.cpu_seconds)
            for reporter in self.reporters:
                reporter.step(number, loss, rate, norm, batch.tokens.numel() / seconds, **observed)
        if reading:
            self._read_states(number, state, batch.tokens.shape[1])

    def _gradient(self, batch: Batch) -> tuple[float, float, ModelState, Tensor]:
        """Leaves the clipped gradient in the parameters; returns loss, norm before clipping, last states, answers."""
        self.model.train()
        loss, answers, state, parts = 0.0, [], None, self.stream.parts
        for tokens, targets, mask, reset in batch.parts(parts):
            with self.runtime.autocast():
                logits, state = self.model(tokens, mask=mask, reset=reset)
            part = cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORE) / parts
            auxiliary = self.model.auxiliary_loss()
            (part if auxiliary is None else part + auxiliary / parts).backward()
            loss += part.item()
            if self.stream.observes:
                answers.append(logits.detach().argmax(dim=-1))
        assert state is not None
        norm = float(clip_grad_norm_(self.model.parameters(), self.config.clip))
        return loss, norm, state, torch.cat(answers) if answers else batch.targets.new_empty(0)

    def _fail(self, step: int, batch: Batch, random: Tensor, loss: float, norm: float) -> None:
        bundle = write_bundle(self.run, step, self.model, batch, random, loss, norm)
        what = f"step {step}: expected a finite loss and gradient, got loss {loss} and gradient norm {norm}"
        self.skipped += 1
        if self.config.on_nonfinite == "skip" and self.skipped <= self.config.max_skipped:
            self.run.log(step=step, skipped=f"loss {loss}, gradient norm {norm}")
            self._warn(f"{what}; skipped ({self.skipped} of at most {self.config.max_skipped}), saved in {bundle}")
            return
        self.runtime.random_state = random
        self.save()
        raise Diverged(f"training: {what}; the weights are those before it; look into: matrixstate autopsy {bundle}")

    def _read_states(self, step: int, state: ModelState, length: int) -> None:
        readings = self.thermometer.read(state, length)
        for reporter in self.reporters:
            reporter.measured(step, readings)
        warning = self.watch.look(step, readings)
        if warning is not None:
            self._warn(warning)

    def evaluates_after(self, step: int) -> bool:
        """Whether the model is evaluated after that step, which is not the last."""
        every = self.stream.evaluate_every
        return every is not None and 0 < step < self.config.steps and step % every == 0

    def evaluation_is_missing(self) -> bool:
        """Whether the run stopped between a step and the evaluation that follows it."""
        done = self.progress.step
        return self.evaluates_after(done) and not any(
            line["step"] == done and "validation_loss" in line for line in self.run.metrics()
        )

    def validate(self) -> None:
        """Evaluates on held-out data; saves if the model has never been better. Left early when stopped."""
        loss = self._unless_stopped(lambda leave: self.stream.validation_loss(self.model, leave))
        if loss is not None:
            self._report(loss)
            if loss < self.best:
                self.best = loss
                self.save()
                mark_best(self.run.checkpoints, Best(self.progress.step, loss))

    def _report(self, loss: float) -> None:
        for reporter in self.reporters:
            reporter.evaluated(self.progress.step, loss)

    def save(self) -> None:
        """Writes a checkpoint of this step, unless there is one."""
        if self.saved != self.progress.step:
            random = self.runtime.random_state
            save_progress(self.run, self.progress, self.stream.state(), self.model, self.optimizer, random)
            self.saved = self.progress.step

    def finish_model(self) -> None:
        """Makes the model that the run holds in the end."""
        self.model = self.stream.finish(self.model)
        self.progress.finished, self.saved = True, None

    def evaluate(self) -> Evaluation | None:
        """Evaluates the finished model and closes the run; None when stopped meanwhile."""
        found = self._unless_stopped(lambda leave: self.stream.evaluate(self.model, leave))
        if found is not None:
            if isinstance(found.result, TextLoss):
                self._report(found.result.nats_per_token)
            for name, data in found.files.items():
                write_json(self.run.directory / name, data)
            done = {k: v for k, v in dataclasses.asdict(self.progress).items() if k != "finished"}
            self.run.finish("done", **done, skipped=self.skipped, **found.numbers)
        return found

    def _unless_stopped(self, evaluate: Callable[[Callable[[int, int], None]], Found]) -> Found | None:
        def leave_if_stopped(done: int, total: int) -> None:
            if self.stop:
                raise _Stopped

        try:
            return evaluate(leave_if_stopped)
        except _Stopped:
            return None

    def speed(self) -> float:
        """Tokens per second of training, since this session began."""
        seconds = self.progress.seconds - self.first.seconds
        return (self.progress.tokens - self.first.tokens) / seconds if seconds else 0.0
