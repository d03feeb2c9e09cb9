"""What the training loop tells the world: a log in the run, and whoever else wants to listen."""

from typing import Protocol

from matrixstate.errors import MissingExtra
from matrixstate.training.run import Run


class Reporter(Protocol):
    """Is told of every step and every look at the validation text. Steps are counted from 1."""

    def step(
        self, step: int, loss: float, learning_rate: float, gradient_norm: float, tokens_per_second: float
    ) -> None:
        """A step is done; loss in nats per token."""

    def evaluated(self, step: int, nats_per_token: float) -> None:
        """Part of the validation text was read."""


class RunLog:
    """Writes metrics.jsonl."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def step(
        self, step: int, loss: float, learning_rate: float, gradient_norm: float, tokens_per_second: float
    ) -> None:
        self._run.log(
            step=step, loss=loss, learning_rate=learning_rate, gradient_norm=gradient_norm,
            tokens_per_second=round(tokens_per_second, 1),
        )  # fmt: skip

    def evaluated(self, step: int, nats_per_token: float) -> None:
        self._run.log(step=step, validation_loss=nats_per_token)


class TensorBoardLog:
    """Writes TensorBoard files into the run."""

    def __init__(self, run: Run) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("training.tensorboard: needs tensorboard: pip install 'matrixstate[log]'") from error
        self._writer = SummaryWriter(str(run.directory / "tensorboard"))

    def step(
        self, step: int, loss: float, learning_rate: float, gradient_norm: float, tokens_per_second: float
    ) -> None:
        self._writer.add_scalar("loss", loss, step)
        self._writer.add_scalar("learning_rate", learning_rate, step)
        self._writer.add_scalar("gradient_norm", gradient_norm, step)

    def evaluated(self, step: int, nats_per_token: float) -> None:
        self._writer.add_scalar("validation_loss", nats_per_token, step)
        self._writer.flush()
