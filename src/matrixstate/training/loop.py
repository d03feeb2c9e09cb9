"""The training loop."""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from matrixstate.data import Corpus, RandomWindows, open_corpus, tokenize
from matrixstate.errors import ConfigError, Diverged
from matrixstate.evaluation import TextLoss, text_loss
from matrixstate.models import LanguageModel
from matrixstate.training.checkpoint import latest_checkpoint, load_training, load_weights, save_checkpoint
from matrixstate.training.config import RunConfig, TrainingConfig
from matrixstate.training.optimizer import learning_rate, make_optimizer
from matrixstate.training.report import Reporter, RunLog, TensorBoardLog
from matrixstate.training.run import Run


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
    size, wanted = text.tokenizer.size, config.model.vocabulary
    if wanted is not None and size > wanted:
        raise ConfigError(f"model.vocabulary: expected at least {size}, the tokenizer's, got {wanted}")
    RandomWindows(text.parts["train"], config.training.sequence, config.training.batch, config.seed)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocabulary=wanted or size))
    run = Run.create(directory, config)
    text.write(run.data)
    return run


def train(
    run: Run, reporters: Sequence[Reporter] = (), *, resume: bool = False, stop_after: int | None = None
) -> Outcome:
    """Trains the run's model to its last step, or until SIGINT or SIGTERM, or for `stop_after` more steps.

    With `resume` it goes on from the latest checkpoint, bit for bit as if it had not stopped. Whichever way it ends,
    the last step is saved. A second signal stops it at once.
    """
    config, training, corpus = run.config, run.config.training, open_corpus(run.data)
    torch.manual_seed(config.seed)
    model = LanguageModel(config.model)
    optimizer = make_optimizer(model, training)
    done = load_training(latest_checkpoint(run.checkpoints), model, optimizer) if resume else 0
    run.forget_after(done)
    batches = RandomWindows(corpus.train, training.sequence, training.batch, config.seed)
    reporters = [RunLog(run), *([TensorBoardLog(run)] if training.tensorboard else []), *reporters]
    last = training.steps if stop_after is None else min(training.steps, done + stop_after)
    spent, first = 0.0, done
    run.finish("running", step=done)
    with _signals() as received:
        while done < last and not received:
            began = time.perf_counter()
            try:
                loss, norm = _step(model, optimizer, batches, training, done)
            except Diverged as error:
                run.finish("failed", step=done, reason=str(error))
                raise
            seconds = time.perf_counter() - began
            done, spent = done + 1, spent + seconds
            speed = training.batch * training.sequence / seconds
            for reporter in reporters:
                reporter.step(done, loss, learning_rate(training, done - 1), norm, speed)
            if done % training.evaluate_every == 0 and done < training.steps:
                part = validation_loss(model, corpus, training.sequence, training.evaluate_tokens)
                for reporter in reporters:
                    reporter.evaluated(done, part.nats_per_token)
            if done % training.checkpoint_every == 0 and done < last:
                save_checkpoint(run.checkpoints, done, model, optimizer, training.keep)
        save_checkpoint(run.checkpoints, done, model, optimizer, training.keep)
    speed = (done - first) * training.batch * training.sequence / spent if spent else 0.0
    if done < training.steps:
        run.finish("stopped", step=done)
        return Outcome(done, received[0] if received else None, None, speed)
    whole = validation_loss(model, corpus, training.sequence)
    for reporter in reporters:
        reporter.evaluated(done, whole.nats_per_token)
    run.finish("done", step=done, nats_per_token=whole.nats_per_token, bits_per_byte=whole.bits_per_byte)
    return Outcome(done, None, whole, speed)


def _step(
    model: LanguageModel, optimizer: torch.optim.Optimizer, batches: RandomWindows, config: TrainingConfig, step: int
) -> tuple[float, float]:
    """One optimizer step; returns the loss in nats per token and the gradient's norm before clipping."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config, step)
    inputs, targets = batches.at(step)
    loss = 0.0
    for part_inputs, part_targets in zip(
        inputs.chunk(config.accumulate), targets.chunk(config.accumulate), strict=True
    ):
        part = _loss(model, part_inputs, part_targets, config.precision) / config.accumulate
        part.backward()
        loss += part.item()
    norm = float(clip_grad_norm_(model.parameters(), config.clip))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise Diverged(f"training: expected a finite loss and gradient at step {step + 1}, got {loss} and {norm}")
    optimizer.step()
    optimizer.zero_grad()
    return loss, norm


def _loss(model: LanguageModel, inputs: Tensor, targets: Tensor, precision: str) -> Tensor:
    with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        logits, _ = model(inputs)
    return cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def validation_loss(model: LanguageModel, corpus: Corpus, window: int, tokens: int | None = None) -> TextLoss:
    """The loss over the validation text in windows, or over its first `tokens`."""
    part = corpus.validation[:tokens]
    return text_loss(model, part, corpus.tokenizer.decode(part.tolist()), window=window)


def load_model(run: Run, checkpoint: Path | None = None) -> LanguageModel:
    """The run's model with the weights of a checkpoint (default: the latest), in evaluation mode."""
    model = LanguageModel(run.config.model)
    load_weights(checkpoint or latest_checkpoint(run.checkpoints), model)
    return model.eval()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that receives the first SIGINT or SIGTERM; a second one interrupts at once. Main thread only."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, _: object) -> None:
        received.append(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, before[each])

    before = {each: signal.signal(each, note) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
