"""A run in training: a stream provides the batches, a runtime the device and precision."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from matrixstate.data import Batch
from matrixstate.devices import CPU
from matrixstate.errors import CheckpointError, Diverged
from matrixstate.evaluation import TextLoss
from matrixstate.models import LanguageModel, ModelConfig, ModelState
from matrixstate.training.checkpoint import Best, find_checkpoint, load_training, mark_best, step_of
from matrixstate.training.compilation import compile_blocks, uncompiled
from matrixstate.training.guard import write_bundle
from matrixstate.training.objective import compute_accuracy, compute_loss
from matrixstate.training.optimizer import learning_rate, make_optimizer, set_rate
from matrixstate.training.report import Reporter, RunLog, TensorBoardLog
from matrixstate.training.resume import Progress, best_loss, read_progress, save_progress, saved_model
from matrixstate.training.run import Run, write_json
from matrixstate.training.runtime import Clock, Numbers, Runtime
from matrixstate.training.step import Step
from matrixstate.training.stopping import Stop
from matrixstate.training.streams import Evaluation, open_stream
from matrixstate.training.thermometer import OverflowWatch, Thermometer

T = TypeVar("T")


class _EvaluationStopped(Exception):
    """Ends an evaluation early. Nothing is lost: evaluations change no state of the training."""


class Session:
    """A run in training, from its start or a checkpoint: model, optimizer, data stream, progress, and its log."""

    def __init__(
        self, run: Run, reporters: Sequence[Reporter], resume: bool, stop: Stop, device: torch.device = CPU
    ) -> None:
        self.run, self.config, self.stop = run, run.config.training, stop
        self.stream, self.runtime = open_stream(run), Runtime(run.config.training.precision, device)
        self.reporters = [RunLog(run), *([TensorBoardLog(run)] if self.config.tensorboard else []), *reporters]
        self.saved: int | None = None  # step of the newest checkpoint
        self.pending: Step | None = None  # done, but not reported
        self.progress = self._restore() if resume else self._begin()
        self.runtime.forget_peak()
        run.discard_metrics_after(self.progress.step)
        self.skipped = sum("skipped" in line for line in run.metrics())
        self.best = best_loss(run, self.progress.step)
        self.thermometer, self.watch = Thermometer(self.model), OverflowWatch()
        self.at_start = dataclasses.replace(self.progress)

    def _begin(self) -> Progress:
        """Makes a new model and its optimizer."""
        self.runtime.seed(self.run.config.seed)
        self._make_model(self.run.config.initial_model())
        return Progress()

    def _make_model(self, config: ModelConfig) -> None:
        """Makes the model and its optimizer."""
        self.model = self.runtime.place(LanguageModel(config))
        self.model.recompute = self.config.recompute == "blocks"
        if self.config.compile:
            compile_blocks(self.model, dynamic=self.stream.shapes_vary)
        self.optimizer = make_optimizer(self.model, self.config)

    def _restore(self) -> Progress:
        """Loads model, optimizer, stream and random state from the newest undamaged checkpoint."""
        checkpoint, damages = find_checkpoint(self.run.checkpoints)
        for damage in damages:
            self._warn(f"{damage}; resuming from {checkpoint.name}")
        progress, stream = read_progress(checkpoint, step_of(checkpoint))
        self.runtime.seed(self.run.config.seed)  # for a generator that the checkpoint has no state of
        self._make_model(saved_model(self.run.config, checkpoint))
        self.runtime.random_state = load_training(checkpoint, self.model, self.optimizer)
        if progress.step < self.config.steps:
            # more steps than before were asked for, which a model with codebooks made after training cannot take
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
        """One optimizer step, which leaves the weights unchanged if its loss or gradient is not finite.

        On a CPU its numbers are read before the weights change. Any other device sees for itself whether they may
        change; its numbers are read, and reported, when the gradient of the next step is under way, or by `settle`.
        """
        clock, number = Clock(), self.progress.step + 1
        step = self._compute(number)
        if self.runtime.runs_ahead:
            if not self.settle():  # the step before was computed again, in place of this one
                step = self._compute(number)
            # what fused AdamW has for scaled losses: with 1.0 it changes neither weights nor its own state
            self.optimizer.found_inf = step.failed  # pyright: ignore[reportAttributeAccessIssue]
            self.optimizer.step()
        elif step.is_finite:
            self.optimizer.step()
        else:
            self._fail(step)
        self.optimizer.zero_grad()
        self.progress.step, self.progress.tokens = number, self.progress.tokens + step.batch.tokens.numel()
        self.progress.seconds += (seconds := clock.seconds)
        self.progress.cpu_seconds += clock.cpu_seconds
        step.seconds, self.pending = seconds, step
        if not self.runtime.runs_ahead or self.stream.adapts or step.state is not None:
            self.settle()

    def _compute(self, number: int) -> Step:
        """Computes the clipped gradient of a step."""
        measures_states = self.thermometer.due(number)
        random = self.runtime.random_state
        batch = self.runtime.move(self.stream.batch(number - 1))
        rate = learning_rate(self.config, number - 1)
        set_rate(self.optimizer, rate)
        losses, norm, state, accuracy = self._gradient(batch)
        failed = (~torch.stack([*losses, norm]).isfinite().all()).float() if self.runtime.runs_ahead else None
        numbers = Numbers([*losses, norm, *([] if accuracy is None else [accuracy])])
        before, state = dataclasses.replace(self.progress), state if measures_states else None
        return Step(number, batch, random, before, rate, state, failed, numbers, len(losses))

    def _gradient(self, batch: Batch) -> tuple[list[Tensor], Tensor, ModelState, Tensor | None]:
        """Computes the clipped gradient.

        Returns:
            The losses of the parts, the norm before clipping, the states at the end, and an accuracy that is observed.
        """
        self.model.train()
        losses, answers, state, parts = [], [], None, self.stream.parts
        for part in batch.parts(parts):
            with self.runtime.autocast():
                logits, state = self.model(part.tokens, mask=part.mask, reset=part.reset)
            # divided by the number of parts, which are equally long: their sum is the mean over the batch
            loss, auxiliary = compute_loss(self.model, logits, part)
            loss = loss / parts
            (loss if auxiliary is None else loss + auxiliary / parts).backward()
            losses.append(loss.detach())
            if self.stream.observes:
                answers.append(logits.detach().argmax(dim=-1))
        assert state is not None
        norm = clip_grad_norm_(self.model.parameters(), self.config.clip)
        return losses, norm, state, compute_accuracy(torch.cat(answers), batch) if answers else None

    def settle(self) -> bool:
        """Reports the newest step, which may mean to wait for it; returns whether its loss and gradient were finite.

        On a device that runs ahead, a step that was not is taken care of here; the gradients of parameters are lost.
        """
        step, self.pending = self.pending, None
        if step is None:
            return True
        if step.is_finite:
            observed = self.stream.observe(step.number, step.batch, step.accuracy, self.progress.cpu_seconds)
            if (peak := self.runtime.peak_memory) is not None:
                observed["memory"] = peak
            speed = step.batch.tokens.numel() / step.seconds
            for reporter in self.reporters:
                reporter.step(step.number, step.loss, step.rate, step.norm, speed, **observed)
        elif self.runtime.runs_ahead:
            self.optimizer.zero_grad()
            self.runtime.random_state = step.random
            self._gradient(step.batch)  # once more: the bundle has statistics of it, and random numbers go on from it
            self._fail(step)
            self.optimizer.zero_grad()
        if step.state is not None:
            self._measure_states(step.number, step.state, step.batch.tokens.shape[1])
        return step.is_finite

    def _fail(self, step: Step) -> None:
        """Saves a bundle of a step that was not finite; raises Diverged unless the step may be skipped."""
        bundle = write_bundle(self.run, step.number, self.model, step.batch, step.random, step.loss, step.norm)
        numbers = f"loss {step.loss}, gradient norm {step.norm}"
        what = f"step {step.number}: expected a finite loss and gradient, got {numbers.replace(', ', ' and ')}"
        self.skipped += 1
        if self.config.on_nonfinite == "skip" and self.skipped <= self.config.max_skipped:
            self.run.log(step=step.number, skipped=numbers)
            self._warn(f"{what}; skipped ({self.skipped} of at most {self.config.max_skipped}), saved in {bundle}")
            return
        vars(self.progress).update(vars(step.before))
        self.runtime.random_state = step.random  # the checkpoint is that of the step before
        self.save()
        raise Diverged(
            f"training: {what}; the weights are those before it; replay it with: matrixstate autopsy {bundle}"
        )

    def _measure_states(self, step: int, state: ModelState, length: int) -> None:
        readings = self.thermometer.read(state, length)
        for reporter in self.reporters:
            reporter.measured(step, readings)
        warning = self.watch.check(step, readings)
        if warning is not None:
            self._warn(warning)

    def evaluates_after(self, step: int) -> bool:
        """Whether the validation loss is measured after that step; after the last one, `evaluate` does."""
        every = self.stream.evaluate_every
        return every is not None and 0 < step < self.config.steps and step % every == 0

    def evaluation_is_missing(self) -> bool:
        """Whether the evaluation after the newest step was not logged before the run stopped."""
        done = self.progress.step
        return self.evaluates_after(done) and not any(
            line["step"] == done and "validation_loss" in line for line in self.run.metrics()
        )

    def validate(self) -> None:
        """Measures the validation loss; saves a checkpoint if it is the lowest so far. A stop ends it early."""
        self.settle()
        loss = self._unless_stopped(lambda progress: self.stream.validation_loss(self.model, progress))
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
        """Writes a checkpoint of the current step, unless there is one."""
        self.settle()
        if self.saved != self.progress.step:
            random = self.runtime.random_state
            save_progress(self.run, self.progress, self.stream.state(), self.model, self.optimizer, random)
            self.saved = self.progress.step

    def finish_model(self) -> None:
        """Makes the final model, which `save` then writes, also if the last step has a checkpoint."""
        self.settle()
        self.model = self.runtime.place(self.stream.finish(self.model))
        self.progress.finished, self.saved = True, None

    def evaluate(self) -> Evaluation | None:
        """Evaluates the final model and marks the run as done; None if a stop ended the evaluation early."""
        found = self._unless_stopped(lambda progress: self.stream.evaluate(self.model, progress))
        if found is not None:
            if isinstance(found.result, TextLoss):
                self._report(found.result.nats_per_token)
            for name, data in found.files.items():
                write_json(self.run.directory / name, data)
            done = {k: v for k, v in dataclasses.asdict(self.progress).items() if k != "finished"}
            self.run.set_status("done", **done, skipped=self.skipped, **found.numbers)
        return found

    def _unless_stopped(self, evaluate: Callable[[Callable[[int, int], None]], T]) -> T | None:
        """The result of `evaluate`, called with a progress callback that ends it on a stop; None if it ended so."""

        def end_if_stopped(done: int, total: int) -> None:
            if self.stop:
                raise _EvaluationStopped

        try:
            with uncompiled() if self.config.compile else nullcontext():
                return evaluate(end_if_stopped)
        except _EvaluationStopped:
            return None

    def speed(self) -> float:
        """Tokens per second in the steps of this session."""
        seconds = self.progress.seconds - self.at_start.seconds
        return (self.progress.tokens - self.at_start.tokens) / seconds if seconds else 0.0
