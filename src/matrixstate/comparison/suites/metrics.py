"""What entries are compared by in place of bits per byte or accuracy: metrics, which plug-ins add."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from matrixstate.models import LanguageModel
from matrixstate.plugins import extensible
from matrixstate.training import Run


class Metric(ABC):
    """A number measured on every trained model."""

    label: ClassVar[str]
    """Name and unit, as reports show them."""
    better: ClassVar[Literal["lower", "higher"]]
    """Which values are better."""

    @abstractmethod
    def measure(self, model: LanguageModel, run: Run) -> float:
        """The number of a trained model.

        Args:
            model: in evaluation mode, on the device that it was trained on.
            run: what it was trained in; `run.config` says how and on what, a text's tokens lie in `run.data`.
        """


METRICS: dict[str, type[Metric]] = extensible("metrics", {}, Metric)
"""Names for `metric:` in a suite; plug-ins add to it."""
