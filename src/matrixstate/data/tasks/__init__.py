"""Synthetic tasks with exact answers: state tracking and recall, seeded, of any length."""

from matrixstate.data.tasks.automata import (
    AutomatonConfig,
    BracketArithmeticConfig,
    CycleNavigationConfig,
    DyckConfig,
    EvenPairsConfig,
    ModularArithmeticConfig,
    ParityConfig,
)
from matrixstate.data.tasks.groups import Group, group, is_group, isomorphism
from matrixstate.data.tasks.recall import InductionHeadsConfig, MQARConfig, SelectiveCopyingConfig
from matrixstate.data.tasks.task import IGNORE, TaskConfig
from matrixstate.data.tasks.words import WordProblemConfig, running_products
from matrixstate.plugins import extensible

_TASKS: dict[str, type[TaskConfig]] = {
    "word_problem": WordProblemConfig,
    "parity": ParityConfig,
    "even_pairs": EvenPairsConfig,
    "cycle_navigation": CycleNavigationConfig,
    "modular_arithmetic": ModularArithmeticConfig,
    "bracket_arithmetic": BracketArithmeticConfig,
    "dyck": DyckConfig,
    "mqar": MQARConfig,
    "selective_copying": SelectiveCopyingConfig,
    "induction_heads": InductionHeadsConfig,
}
TASKS = extensible("tasks", _TASKS, TaskConfig)
"""Names for `task:` in a configuration file; plug-ins add to it."""

__all__ = [
    "IGNORE",
    "TASKS",
    "AutomatonConfig",
    "BracketArithmeticConfig",
    "CycleNavigationConfig",
    "DyckConfig",
    "EvenPairsConfig",
    "Group",
    "InductionHeadsConfig",
    "MQARConfig",
    "ModularArithmeticConfig",
    "ParityConfig",
    "SelectiveCopyingConfig",
    "TaskConfig",
    "WordProblemConfig",
    "group",
    "is_group",
    "isomorphism",
    "running_products",
]
