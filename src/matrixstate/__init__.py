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
    from matrixstate.mixers import (
        GLA,
        GRU,
        HGRN,
        HGRN2,
        KDA,
        LRU,
        LSTM,
        M2RNN,
        MRU,
        RGLRU,
        RNN,
        RWKV6,
        RWKV7,
        S5,
        Attention,
        AttentionConfig,
        Bidirectional,
        BidirectionalConfig,
        Comba,
        CombaConfig,
        DeltaNet,
        DeltaNetConfig,
        GatedConv,
        GatedConvConfig,
        GatedDeltaNet,
        GatedDeltaNet2,
        GatedDeltaNet2Config,
        GatedDeltaNetConfig,
        GatedDeltaProduct,
        GatedDeltaProductConfig,
        GLAConfig,
        GRUConfig,
        HGRN2Config,
        HGRNConfig,
        KDAConfig,
        LightNet,
        LightNetConfig,
        LinearTransformer,
        LinearTransformerConfig,
        Longhorn,
        LonghornConfig,
        LRUConfig,
        LSTMConfig,
        M2RNNConfig,
        Mamba2,
        Mamba2Config,
        MinGRU,
        MinGRUConfig,
        MinLSTM,
        MinLSTMConfig,
        MRUAttention,
        MRUAttentionConfig,
        MRUConfig,
        ReGLA,
        ReGLAConfig,
        RetNet,
        RetNetConfig,
        RGLRUConfig,
        RNNConfig,
        RWKV6Config,
        RWKV7Config,
        S5Config,
        TransNormer,
        TransNormerConfig,
    )
    from matrixstate.models import BlockConfig, LanguageModel, ModelConfig, Sampling, generate, preset

__all__ = [
    "GLA",
    "GRU",
    "HGRN",
    "HGRN2",
    "KDA",
    "LRU",
    "LSTM",
    "M2RNN",
    "MRU",
    "RGLRU",
    "RNN",
    "RWKV6",
    "RWKV7",
    "S5",
    "Attention",
    "AttentionConfig",
    "Bidirectional",
    "BidirectionalConfig",
    "BlockConfig",
    "Comba",
    "CombaConfig",
    "ComparisonResult",
    "DeltaNet",
    "DeltaNetConfig",
    "GLAConfig",
    "GRUConfig",
    "GatedConv",
    "GatedConvConfig",
    "GatedDeltaNet",
    "GatedDeltaNet2",
    "GatedDeltaNet2Config",
    "GatedDeltaNetConfig",
    "GatedDeltaProduct",
    "GatedDeltaProductConfig",
    "HGRN2Config",
    "HGRNConfig",
    "KDAConfig",
    "LRUConfig",
    "LSTMConfig",
    "LanguageModel",
    "LightNet",
    "LightNetConfig",
    "LinearTransformer",
    "LinearTransformerConfig",
    "Longhorn",
    "LonghornConfig",
    "M2RNNConfig",
    "MLPConfig",
    "MRUAttention",
    "MRUAttentionConfig",
    "MRUConfig",
    "Mamba2",
    "Mamba2Config",
    "MinGRU",
    "MinGRUConfig",
    "MinLSTM",
    "MinLSTMConfig",
    "MoEConfig",
    "ModelConfig",
    "RGLRUConfig",
    "RNNConfig",
    "RWKV6Config",
    "RWKV7Config",
    "ReGLA",
    "ReGLAConfig",
    "RetNet",
    "RetNetConfig",
    "S5Config",
    "Sampling",
    "TrainedModel",
    "TransNormer",
    "TransNormerConfig",
    "compare",
    "generate",
    "load",
    "ops",
    "preset",
    "train",
]
_PARTS = ("layers", "mixers", "models", "api")  # where the names are looked for: what is quick to import first


def __getattr__(name: str) -> Any:
    if name == "ops":
        return import_module("matrixstate.ops")
    if name in __all__:
        for part in _PARTS:
            module = import_module(f"matrixstate.{part}")
            if hasattr(module, name):
                globals()[name] = found = getattr(module, name)
                return found
    raise AttributeError(f"module 'matrixstate' has no attribute {name!r}", name=name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
