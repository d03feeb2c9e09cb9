"""The Python interface of runs and comparisons, which `import matrixstate` exports besides layers and models."""

from matrixstate.api.comparisons import ComparisonResult, compare
from matrixstate.api.runs import TrainedModel, load, train

__all__ = ["ComparisonResult", "TrainedModel", "compare", "load", "train"]
