"""How the length of a task's training sequences changes as they are learned."""

from typing import Any

import torch

from matrixstate.training.task_config import TaskTrainingConfig


class Curriculum:
    """The length and number of each step's sequences."""

    def __init__(self, config: TaskTrainingConfig, seed: int) -> None:
        self.config = config
        self.current = config.start if config.lengths == "grow" else config.length
        self._seed, self._mean, self._seen = seed, 0.0, 0

    @property
    def grows(self) -> bool:
        """Whether the length depends on the accuracy: until it is the full one."""
        return self.config.lengths == "grow" and self.current < self.config.length

    def length(self, step: int) -> int:
        """The length of the sequences of a step, counted from 0."""
        if self.config.lengths != "uniform":
            return self.current
        # one generator per step: the length does not depend on where a run was resumed
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + step) % 2**63)
        span = self.config.length - self.config.start + 1
        return self.config.start + int(torch.randint(span, (), generator=generator))

    def batch(self, length: int) -> int:
        """How many sequences of that length make a batch: as many tokens as at full length, within the limits."""
        return min(self.config.max_batch, max(self.config.batch, self.config.batch * self.config.length // length))

    def update(self, accuracy: float) -> float:
        """Adds a batch's accuracy to the running mean, and doubles the length if the mean reaches the threshold.

        The mean starts anew at every length. It is that of all batches at first, and exponential with rate 0.1 from the
        tenth on.

        Returns:
            The mean, this batch included.
        """
        self._seen += 1
        self._mean += max(0.1, 1 / self._seen) * (accuracy - self._mean)
        mean = self._mean
        if self.grows and mean >= self.config.threshold:
            self.current = min(2 * self.current, self.config.length)
            self._mean, self._seen = 0.0, 0
        return mean

    def state(self) -> dict[str, Any]:
        """The state for a checkpoint, as plain data."""
        return {"current": self.current, "mean": self._mean, "seen": self._seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from a result of `state`."""
        self.current, self._mean, self._seen = int(state["current"]), float(state["mean"]), int(state["seen"])
