"""Recurrent sequence models with matrix-valued state, and what they are measured against.

`import matrixstate` imports nothing else; PyTorch and the parts come with the first name that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from matrixstate import ops
    from matrixstate.api import ComparisonResult, TrainedModel, compare, load, train
    from matrixstate.layers import MLPConfig, MoEConfig
    from matrixstate.mixers import *
    from matrixstate.models import BlockConfig, LanguageModel, ModelConfig, Sampling, generate, preset

__all__ = [
    "BlockConfig",
    "ComparisonResult",
    "LanguageModel",
    "MLPConfig",
    "MoEConfig",
    "ModelConfig",
    "Sampling",
    "TrainedModel",
    "compare",
    "generate",
    "load",
    "ops",
    "preset",
    "train",
]  # and the mixers with their configs, `matrixstate.mixers.__all__`
_PARTS = ("layers", "models", "api")  # where the other names are looked for: what is quick to import first


def __getattr__(name: str) -> Any:
    if name == "ops":
        return import_module("matrixstate.ops")
    if name in __all__:
        found = next(m for part in _PARTS if hasattr(m := import_module(f"matrixstate.{part}"), name))
    elif name[:1].isupper() and name in (mixers := import_module("matrixstate.mixers")).__all__:
        found = mixers
    else:
        raise AttributeError(f"module 'matrixstate' has no attribute {name!r}", name=name)
    globals()[name] = value = getattr(found, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *import_module("matrixstate.mixers").__all__})
