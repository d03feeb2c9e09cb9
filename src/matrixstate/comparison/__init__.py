"""Models trained side by side at a matched budget; and the demo.

`suites/` describes what is compared, `running/` trains it and writes CSV tables, `reporting/` turns the tables into
statistics, figures and a page, and `claims/` tests published statements. Each imports only those before it.
"""

from matrixstate.comparison.demo import DEMO, Entry, demo_config, demo_data, train_entry
from matrixstate.comparison.reporting.training_curves import draw_curves
from matrixstate.comparison.suites.entries import MatchConfig, TextEntry
from matrixstate.comparison.suites.files import load_suite, make_suite
from matrixstate.comparison.suites.metrics import METRICS, Metric
from matrixstate.comparison.suites.set import SuiteSet, load_any, make_set
from matrixstate.comparison.suites.suite import SuiteConfig, TextSuite

__all__ = [
    "DEMO",
    "METRICS",
    "Entry",
    "MatchConfig",
    "Metric",
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
