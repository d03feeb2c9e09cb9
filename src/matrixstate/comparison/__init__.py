"""Models side by side: the same text, width, depth and steps, and as many parameters."""

from matrixstate.comparison.demo import DEMO, Entry, demo_config, demo_data, train_entry
from matrixstate.comparison.figure import draw_curves

__all__ = ["DEMO", "Entry", "demo_config", "demo_data", "draw_curves", "train_entry"]
