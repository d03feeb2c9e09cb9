"""How a training ended."""

from dataclasses import dataclass

from matrixstate.evaluation import TextLoss
from matrixstate.evaluation.tracking import Tracking
from matrixstate.training.resume import Progress
from matrixstate.training.streams import Evaluation


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    progress: Progress
    """Steps and tokens done and the time they took, over all sessions."""
    stopped: int | None
    """The signal that stopped it; None if it ran as far as asked."""
    evaluation: Evaluation | None
    """Of the final model; None if the last step or its evaluation was not reached."""
    skipped: int
    """Steps skipped because their loss or gradient was not finite, over all sessions."""
    tokens_per_second: float
    """Of the steps of this session, without evaluations."""

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
        """Step and CPU seconds at which a task was solved (99 % at full length); None if it was not, and of a text."""
        return None if self.evaluation is None else self.evaluation.numbers.get("solved_at")
