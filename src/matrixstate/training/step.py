"""A step of training, whose numbers may still be on their way from the device."""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from matrixstate.data import Batch
from matrixstate.models import ModelState
from matrixstate.training.resume import Progress
from matrixstate.training.runtime import Numbers, RandomState


@dataclass
class Step:
    """A step whose gradient has been computed or, on a device that runs ahead, will have been."""

    number: int
    """Counted from 1."""
    batch: Batch
    random: RandomState
    """Before the step, so that it can be replayed with its dropout."""
    before: Progress
    """That of the steps before it."""
    rate: float
    """The learning rate."""
    state: ModelState | None
    """At the end of the batch, if it is to be measured."""
    failed: Tensor | None
    """On a device that runs ahead, 1.0 if a loss or the gradient is not finite, else 0.0."""
    numbers: Numbers
    """The losses of the parts of the batch, the norm of the gradient before clipping and, if the stream observes it,
    the accuracy of the answers."""
    parts: int
    """How many losses these are."""
    seconds: float = 0.0
    """Of wall time."""

    @cached_property
    def loss(self) -> float:
        """In nats per token."""
        return sum(self.numbers.read()[: self.parts], 0.0)

    @property
    def norm(self) -> float:
        return self.numbers.read()[self.parts]

    @property
    def accuracy(self) -> float | None:
        return next(iter(self.numbers.read()[self.parts + 1 :]), None)

    @property
    def is_finite(self) -> bool:
        """Whether loss and gradient are finite."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)
