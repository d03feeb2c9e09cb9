"""Runs and comparisons from Python: what `import matrixstate` offers besides layers and models."""

from matrixstate.api.comparisons import ComparisonResult, compare
from matrixstate.api.runs import TrainedModel, load, train

__all__ = ["ComparisonResult", "TrainedModel", "compare", "load", "train"]
