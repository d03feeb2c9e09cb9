"""Data streams: a stream gives the batch of every step, and evaluates the model on held-out data."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from matrixstate.data import Batch, Corpus, RandomWindows, open_corpus
from matrixstate.evaluation import TextLoss, text_loss
from matrixstate.evaluation.tracking import Tracking, track
from matrixstate.models import LanguageModel
from matrixstate.training.correction import corrected_mixers, find_codes, with_codebooks
from matrixstate.training.curriculum import Curriculum
from matrixstate.training.run import Run
from matrixstate.training.task_config import TaskRunConfig
from matrixstate.training.text_config import TextRunConfig

MASTERED = 0.99  # accuracy at full length from which on a task counts as solved
Progress = Callable[[int, int], None]  # called with (done, total); may raise to end an evaluation early


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a finished model."""

    result: TextLoss | Tracking
    numbers: dict[str, Any]
    """Results for the run's status.json."""
    files: dict[str, Any] = field(default_factory=dict)
    """File name in the run's directory -> plain data, to be written as JSON."""


class Stream(ABC):
    """The data of a run. Only the abstract methods have to be overridden."""

    parts = 1
    """How many parts a step's batch is cut into, whose gradients are accumulated to save memory."""
    shapes_vary = False
    """Whether batches have several shapes."""
    observes = False
    """Whether `observe` reads the accuracy of the model's answers; if not, it is not computed."""
    evaluate_every: int | None = None
    """Steps between evaluations during training; None for no evaluations."""

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0; depends on the seed, the step and the stream's state only."""

    @property
    def adapts(self) -> bool:
        """Whether the next batch depends on what `observe` is told of this one."""
        return False

    def observe(self, step: int, batch: Batch, accuracy: float | None, cpu_seconds: float) -> dict[str, Any]:
        """Called after every step whose loss and gradient were finite; unless the stream `adapts`, maybe a step late.

        Args:
            step: steps done, this one included.
            batch: of the step.
            accuracy: the share of targets that were the likeliest token, before the weights changed; None unless
                `observes`.
            cpu_seconds: of training so far.

        Returns:
            Numbers to log with the loss.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint, as plain data."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Continues from a result of `state`."""

    def validation_loss(self, model: LanguageModel, progress: Progress) -> float | None:
        """The loss on held-out data in nats per token, called every `evaluate_every` steps; None if there is none."""
        return None

    def finish(self, model: LanguageModel) -> LanguageModel:
        """The final model of the run, made of the trained one; the same by default."""
        return model

    @abstractmethod
    def evaluate(self, model: LanguageModel, progress: Progress) -> Evaluation:
        """Evaluates the final model."""


class WindowStream(Stream):
    """Random windows of a text; evaluations measure the loss over its validation part."""

    def __init__(self, config: TextRunConfig, corpus: Corpus) -> None:
        self._training, self._corpus = config.training, corpus
        self.parts, self.evaluate_every = config.training.accumulate, config.training.evaluate_every
        self._windows = RandomWindows(corpus.train, config.training.sequence, config.training.batch, config.seed)

    def batch(self, step: int) -> Batch:
        return self._windows.at(step)

    def validation_loss(self, model: LanguageModel, progress: Progress) -> float:
        loss = validation_loss(model, self._corpus, self._training.sequence, self._training.evaluate_tokens, progress)
        return loss.nats_per_token

    def evaluate(self, model: LanguageModel, progress: Progress) -> Evaluation:
        loss = validation_loss(model, self._corpus, self._training.sequence, progress=progress)
        return Evaluation(loss, {"nats_per_token": loss.nats_per_token, "bits_per_byte": loss.bits_per_byte})


class TaskStream(Stream):
    """Fresh sequences of a task, of lengths from a curriculum; the evaluation measures how far the model tracks."""

    observes = True

    def __init__(self, config: TaskRunConfig) -> None:
        self._config, self.shapes_vary = config, config.training.lengths != "full"
        self.curriculum = Curriculum(config.training, config.seed)
        self.solved_at: tuple[int, float] | None = None
        """Step and CPU seconds at which the running mean of the accuracy reached 99 % at full length."""

    def batch(self, step: int) -> Batch:
        length = self.curriculum.length(step)
        return Batch(*self._config.data.at(self._config.seed, step, self.curriculum.batch(length), length))

    @property
    def adapts(self) -> bool:
        return self.curriculum.grows

    def observe(self, step: int, batch: Batch, accuracy: float | None, cpu_seconds: float) -> dict[str, Any]:
        assert accuracy is not None
        mean, length = self.curriculum.update(accuracy), batch.tokens.shape[1]
        if self.solved_at is None and length == self._config.training.length and mean >= MASTERED:
            self.solved_at = step, cpu_seconds
        return {"length": length, "accuracy": accuracy}

    def state(self) -> dict[str, Any]:
        return {"curriculum": self.curriculum.state(), "solved_at": self.solved_at}

    def restore(self, state: dict[str, Any]) -> None:
        self.curriculum.restore(state["curriculum"])
        solved = state["solved_at"]
        self.solved_at = None if solved is None else (int(solved[0]), float(solved[1]))

    def finish(self, model: LanguageModel) -> LanguageModel:
        """The model with codebooks made of its states, unless they were trained."""
        config, final = self._config, self._config.final_model()
        if config.training.codebooks == "trained":
            return model
        most = max(mixer.codes for mixer in corrected_mixers(final))
        codes = most if config.training.codebooks == "clusters" else None
        return with_codebooks(model, final, find_codes(model, config.data, config.training.length, codes, config.seed))

    def evaluate(self, model: LanguageModel, progress: Progress) -> Evaluation:
        config, lengths = self._config, self._config.measured_lengths
        tracking = track(model, config.data, lengths, sequences=config.evaluate_sequences, progress=progress)
        numbers = {"horizon": tracking.horizon(0.999), "solved_at": self.solved_at}
        return Evaluation(tracking, numbers, {"tracking.json": tracking.data()})


def open_stream(run: Run) -> Stream:
    """The data stream of a run."""
    if isinstance(run.config, TaskRunConfig):
        return TaskStream(run.config)
    assert isinstance(run.config, TextRunConfig)
    return WindowStream(run.config, open_corpus(run.data))


def validation_loss(
    model: LanguageModel, corpus: Corpus, window: int, tokens: int | None = None, progress: Progress | None = None
) -> TextLoss:
    """The loss over the validation text in windows, or over its first `tokens`."""
    part = corpus.validation[:tokens]
    return text_loss(model, part, corpus.tokenizer.decode(part.tolist()), window=window, progress=progress)
