"""Everything a run is made of, as one config; read from YAML with overrides."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from matrixstate.configs import Choices, decode, load_yaml, override
from matrixstate.data import DataConfig
from matrixstate.errors import ConfigError, require, seed_checks
from matrixstate.layers import MLPS, MixerConfig, MLPConfig
from matrixstate.mixers import MIXERS
from matrixstate.models import PRESETS, ModelConfig
from matrixstate.training.optimizer import RateConfig

CHOICES: Choices = {MixerConfig: MIXERS, MLPConfig: MLPS, ModelConfig: PRESETS}


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is trained."""

    steps: int = 2000
    """Optimizer steps."""
    batch: int = 12
    """Sequences per step."""
    sequence: int = 64
    """Tokens per sequence."""
    accumulate: int = 1
    """Parts into which a step's batch is cut to save memory; a divisor of batch."""
    learning_rate: float = 1e-3
    """After the warm-up."""
    final_share: float = 0.1
    """The cosine ends at this share of the learning rate."""
    warmup: int = 100
    """Steps over which the learning rate rises from zero."""
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.1
    """On weight matrices; not on norms, gates, biases, filters and recurrent weights."""
    rates: tuple[RateConfig, ...] = ()
    """Other learning rates for some of the parameters."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: autocast of the weight products; weights, states and sums stay float32."""
    evaluate_every: int = 250
    """Steps between looks at the validation text."""
    evaluate_tokens: int = 20_000
    """How much of the validation text each look reads; the end of training reads all of it."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """How many checkpoints are kept, the latest; the best by validation loss is kept besides."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do at a loss or gradient that is not finite: stop the run, or leave the weights and go on."""
    max_skipped: int = 10
    """How many such steps are skipped before the run stops."""
    tensorboard: bool = False
    """Also write TensorBoard files into the run (the `log` extra)."""

    def __post_init__(self) -> None:
        counts = (
            "steps",
            "batch",
            "sequence",
            "accumulate",
            "evaluate_every",
            "evaluate_tokens",
            "checkpoint_every",
            "keep",
        )
        require(
            *((getattr(self, n) > 0, f"{n}: expected at least 1, got {getattr(self, n)}") for n in counts),
            (self.max_skipped >= 0, f"max_skipped: expected 0 or more, got {self.max_skipped}"),
            (self.warmup >= 0, f"warmup: expected 0 or more, got {self.warmup}"),
            (0 < self.learning_rate < math.inf, f"learning_rate: expected a positive number, got {self.learning_rate}"),
            (0 <= self.final_share <= 1, f"final_share: expected a share from 0 to 1, got {self.final_share}"),
            (0 <= self.beta1 < 1, f"beta1: expected a number in [0, 1), got {self.beta1}"),
            (0 <= self.beta2 < 1, f"beta2: expected a number in [0, 1), got {self.beta2}"),
            (0 <= self.weight_decay < math.inf, f"weight_decay: expected 0 or more, got {self.weight_decay}"),
            (0 < self.clip < math.inf, f"clip: expected a positive number, got {self.clip}"),
            (
                self.accumulate < 1 or self.batch % self.accumulate == 0,
                f"accumulate: expected a divisor of batch = {self.batch}, got {self.accumulate}",
            ),
        )


@dataclass(frozen=True)
class RunConfig:
    """A run: a name, a seed, a text, a model and how it is trained."""

    name: str
    """Names the run directory where none is given."""
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    seed: int = 0
    """Of the weights, the batches and dropout."""

    def __post_init__(self) -> None:
        limit, sequence = self.model.learned_positions, self.training.sequence
        plain = self.name and all(c.isalnum() or c in "-_." for c in self.name) and not self.name.startswith(".")
        require(
            (bool(plain), f"name: expected letters, digits, '-', '_' and '.', got {self.name!r}"),
            *seed_checks(self.seed),
            (
                limit is None or sequence <= limit,
                f"training.sequence: expected at most {limit}, the learned positions, got {sequence}",
            ),
        )


def load_config(path: Path, assignments: Iterable[str] = ()) -> RunConfig:
    """The run that a YAML file describes, with "a.b=value" overrides. Raises ConfigError with every mistake."""
    data: dict[str, Any] = override(load_yaml(path), assignments)
    if "task" in data:
        raise ConfigError(f"config {path}: expected a run on a text, got one on a task; only train takes those")
    data.setdefault("name", path.stem)
    return decode(RunConfig, data, CHOICES)
