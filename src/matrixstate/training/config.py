"""The options that runs on texts and on tasks have in common: model, seed, optimizer, checkpoints, guard."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from matrixstate.configs import Choices
from matrixstate.data import DataConfig
from matrixstate.data.tasks import TASKS, TaskConfig
from matrixstate.errors import require, seed_checks
from matrixstate.layers import MLPS, MixerConfig, MLPConfig
from matrixstate.mixers import MIXERS
from matrixstate.models import PRESETS, ModelConfig
from matrixstate.training.optimizer import RateConfig

CHOICES: Choices = {MixerConfig: MIXERS, MLPConfig: MLPS, ModelConfig: PRESETS, TaskConfig: TASKS}


@dataclass(frozen=True)
class TrainingConfig:
    """Options of training that do not depend on the data."""

    steps: int = 2000
    """Optimizer steps."""
    batch: int = 12
    """Sequences per step."""
    learning_rate: float = 1e-3
    """The peak, reached at the end of the warm-up."""
    final_share: float = 0.1
    """The cosine schedule ends at this share of the peak learning rate."""
    warmup: int = 100
    """Steps over which the learning rate rises linearly from zero."""
    beta1: float = 0.9
    """AdamW's decay rate of the running mean of gradients."""
    beta2: float = 0.99
    """AdamW's decay rate of the running mean of squared gradients."""
    weight_decay: float = 0.1
    """Decoupled, as in AdamW. On weight matrices; not on norms, gates, biases, filters and recurrent weights."""
    rates: tuple[RateConfig, ...] = ()
    """Factors on the learning rate of some parameters."""
    clip: float = 1.0
    """The gradient is scaled down to at most this norm, over all parameters together."""
    precision: Literal["float32", "bfloat16", "auto", "tf32"] = "float32"
    """bfloat16: autocast of products with weights; weights, states and sums stay float32. tf32: projections round their
    factors to TF32, on NVIDIA's GPUs only. auto: bfloat16 where the processor or GPU multiplies it in hardware, else
    float32; the run's config records which."""
    recompute: Literal["none", "blocks"] = "none"
    """blocks: keep only the input of every block for the backward pass, which computes the block again; the same bits
    for less memory and a second forward pass."""
    compile: bool = False
    """Compile every block by torch.compile: some seconds to a minute at the start. It needs a C++ compiler, and Triton
    on a GPU. Roundings differ, dropout does not; evaluations are not compiled."""
    deterministic: bool = False
    """Take only algorithms that give the same bits every time, where PyTorch has faster ones on a GPU. On a CPU nothing
    differs."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """How many of the latest checkpoints to keep; the one with the lowest validation loss is kept too."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What to do when a loss or gradient is not finite: stop the run, or skip the step and keep the weights."""
    max_skipped: int = 10
    """How many steps may be skipped before the run stops."""
    tensorboard: bool = False
    """Also write TensorBoard files into the run (the `log` extra)."""

    def __post_init__(self) -> None:
        require(
            *((getattr(self, n) > 0, f"{n}: expected at least 1, got {getattr(self, n)}") for n in self._counts()),
            (self.max_skipped >= 0, f"max_skipped: expected 0 or more, got {self.max_skipped}"),
            (self.warmup >= 0, f"warmup: expected 0 or more, got {self.warmup}"),
            (0 < self.learning_rate < math.inf, f"learning_rate: expected a positive number, got {self.learning_rate}"),
            (0 <= self.final_share <= 1, f"final_share: expected a share from 0 to 1, got {self.final_share}"),
            (0 <= self.beta1 < 1, f"beta1: expected a number in [0, 1), got {self.beta1}"),
            (0 <= self.beta2 < 1, f"beta2: expected a number in [0, 1), got {self.beta2}"),
            (0 <= self.weight_decay < math.inf, f"weight_decay: expected 0 or more, got {self.weight_decay}"),
            (0 < self.clip < math.inf, f"clip: expected a positive number, got {self.clip}"),
            *self._checks(),
        )

    def _counts(self) -> tuple[str, ...]:
        """The options that must be at least 1."""
        return ("steps", "batch", "checkpoint_every", "keep")

    def _checks(self) -> tuple[tuple[bool, str], ...]:
        """Checks of a subclass, as (holds, message)."""
        return ()


@dataclass(frozen=True)
class RunConfig(ABC):
    """A run: its name, model, data, training and seed. Of a text: `TextRunConfig`; of a task: `TaskRunConfig`."""

    name: str
    """Also the name of the run's directory, unless one is given."""
    model: ModelConfig
    data: DataConfig | TaskConfig
    training: TrainingConfig
    seed: int = 0
    """Of weight initialization, batches and dropout."""

    def __post_init__(self) -> None:
        plain = self.name and all(c.isalnum() or c in "-_." for c in self.name) and not self.name.startswith(".")
        require(
            (bool(plain), f"name: expected letters, digits, '-', '_' and '.', got {self.name!r}"),
            *seed_checks(self.seed),
            *self._checks(),
        )

    @abstractmethod
    def _checks(self) -> tuple[tuple[bool, str], ...]:
        """Checks of a subclass, as (holds, message)."""

    @abstractmethod
    def initial_model(self) -> ModelConfig:
        """The model that is trained, which may differ from `model` in its vocabulary and its codebooks."""

    @abstractmethod
    def final_model(self) -> ModelConfig:
        """The model that a finished run holds; it differs from the initial one if codebooks are made after training."""
