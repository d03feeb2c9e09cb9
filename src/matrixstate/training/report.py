"""Reporters, which the training loop calls at every step and evaluation: the run's log, and TensorBoard files."""

from collections.abc import Sequence
from typing import Any, Protocol

from matrixstate.errors import MissingExtra
from matrixstate.training.run import Run
from matrixstate.training.thermometer import Reading


class Reporter(Protocol):
    """The interface of a reporter. Steps are counted from 1."""

    def step(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        tokens_per_second: float,
        **observed: Any,
    ) -> None:
        """Called after a step.

        Args:
            step: the step.
            loss: in nats per token, before the weights changed.
            learning_rate: of the step.
            gradient_norm: before clipping.
            tokens_per_second: of the step.
            **observed: numbers of the data stream, such as a task's accuracy; on a GPU `memory`, the most bytes of it
                that tensors have taken so far.
        """

    def evaluated(self, step: int, nats_per_token: float) -> None:
        """Called after an evaluation on held-out data; `step` steps were done."""

    def measured(self, step: int, readings: Sequence[Reading]) -> None:
        """Called after a step whose states were measured: one reading per layer with a matrix state."""

    def warned(self, message: str) -> None:
        """Called with a message for the user."""


class RunLog:
    """Appends to metrics.jsonl and warnings.txt of the run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def step(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        tokens_per_second: float,
        **observed: Any,
    ) -> None:
        self._run.log(
            step=step, loss=loss, learning_rate=learning_rate, gradient_norm=gradient_norm,
            tokens_per_second=round(tokens_per_second, 1), **observed,
        )  # fmt: skip

    def evaluated(self, step: int, nats_per_token: float) -> None:
        self._run.log(step=step, validation_loss=nats_per_token)

    def measured(self, step: int, readings: Sequence[Reading]) -> None:
        if readings:
            self._run.log(step=step, states=[reading.data() for reading in readings])

    def warned(self, message: str) -> None:
        with (self._run.directory / "warnings.txt").open("a", encoding="utf-8") as file:
            file.write(message + "\n")


class TensorBoardLog:
    """Writes TensorBoard files into tensorboard/ of the run. Raises MissingExtra without the `log` extra."""

    def __init__(self, run: Run) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("training.tensorboard: needs tensorboard: pip install 'matrixstate[log]'") from error
        self._writer = SummaryWriter(str(run.directory / "tensorboard"))

    def step(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        tokens_per_second: float,
        **observed: Any,
    ) -> None:
        self._writer.add_scalar("loss", loss, step)
        self._writer.add_scalar("learning_rate", learning_rate, step)
        self._writer.add_scalar("gradient_norm", gradient_norm, step)
        for name, value in observed.items():
            self._writer.add_scalar(name, value, step)

    def evaluated(self, step: int, nats_per_token: float) -> None:
        self._writer.add_scalar("validation_loss", nats_per_token, step)
        self._writer.flush()

    def measured(self, step: int, readings: Sequence[Reading]) -> None:
        for reading in readings:
            self._writer.add_scalar(f"state/layer {reading.layer}/largest log norm", max(reading.log_norm), step)
            self._writer.add_scalar(
                f"state/layer {reading.layer}/mean rank", sum(reading.rank) / len(reading.rank), step
            )

    def warned(self, message: str) -> None:
        self._writer.add_text("warnings", message)
