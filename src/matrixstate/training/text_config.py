"""The config of a run on a text."""

from dataclasses import dataclass, field

from matrixstate.data import DataConfig
from matrixstate.models import ModelConfig
from matrixstate.training.config import RunConfig, TrainingConfig


@dataclass(frozen=True)
class TextTrainingConfig(TrainingConfig):
    """Options of training on a text."""

    sequence: int = 64
    """Tokens per sequence."""
    accumulate: int = 1
    """Parts of a step's batch whose gradients are accumulated, to save memory; a divisor of batch."""
    evaluate_every: int = 250
    """Steps between evaluations on the validation text."""
    evaluate_tokens: int = 20_000
    """Tokens of the validation text that each of them reads; the evaluation at the end reads all."""

    def _counts(self) -> tuple[str, ...]:
        return (*super()._counts(), "sequence", "accumulate", "evaluate_every", "evaluate_tokens")

    def _checks(self) -> tuple[tuple[bool, str], ...]:
        divides = self.accumulate < 1 or self.batch % self.accumulate == 0
        return ((divides, f"accumulate: expected a divisor of batch = {self.batch}, got {self.accumulate}"),)


@dataclass(frozen=True)
class TextRunConfig(RunConfig):
    """A run on a text."""

    data: DataConfig = field(default_factory=DataConfig)
    training: TextTrainingConfig = field(default_factory=TextTrainingConfig)

    def _checks(self) -> tuple[tuple[bool, str], ...]:
        limit, sequence = self.model.learned_positions, self.training.sequence
        fits = limit is None or sequence <= limit
        return ((fits, f"training.sequence: expected at most {limit}, the learned positions, got {sequence}"),)

    def initial_model(self) -> ModelConfig:
        return self.model

    def final_model(self) -> ModelConfig:
        return self.model
