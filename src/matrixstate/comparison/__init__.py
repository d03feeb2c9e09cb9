"""Models side by side at a matched budget: suites, statistics, figures and a report; and the demo."""

from matrixstate.comparison.demo import DEMO, Entry, demo_config, demo_data, train_entry
from matrixstate.comparison.reporting.training_curves import draw_curves
from matrixstate.comparison.suites.entries import MatchConfig, TextEntry
from matrixstate.comparison.suites.files import load_suite, make_suite
from matrixstate.comparison.suites.set import SuiteSet, load_any, make_set
from matrixstate.comparison.suites.suite import SuiteConfig, TextSuite

__all__ = [
    "DEMO",
    "Entry",
    "MatchConfig",
    "SuiteConfig",
    "SuiteSet",
    "TextEntry",
    "TextSuite",
    "demo_config",
    "demo_data",
    "draw_curves",
    "load_any",
    "load_suite",
    "make_set",
    "make_suite",
    "train_entry",
]
