"""Device, precision and random state of a training: the loop handles them only through this module."""

import dataclasses
import time
from contextlib import AbstractContextManager
from typing import Literal, TypeVar

import torch
from torch import Tensor

from matrixstate.data import Batch
from matrixstate.models import LanguageModel
from matrixstate.training.config import RunConfig

Config = TypeVar("Config", bound=RunConfig)


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX); False where PyTorch cannot tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in older releases
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_precision(config: Config) -> Config:
    """The config with the precision "auto" replaced by what it means on this machine."""
    if config.training.precision != "auto":
        return config
    precision = "bfloat16" if has_fast_bfloat16() else "float32"
    return dataclasses.replace(config, training=dataclasses.replace(config.training, precision=precision))


class Runtime:
    """The runtime of one process on the CPU.

    Args:
        precision: as in `TrainingConfig`, after `resolve_precision`.
    """

    def __init__(self, precision: Literal["float32", "bfloat16", "auto"]) -> None:
        assert precision != "auto", "resolve_precision comes first"
        self.device = torch.device("cpu")
        self._precision = precision

    def seed(self, seed: int) -> None:
        """Seeds weight initialization and dropout."""
        torch.manual_seed(seed)

    def place(self, model: LanguageModel) -> LanguageModel:
        """Moves a model to the device."""
        return model.to(self.device)

    def move(self, batch: Batch) -> Batch:
        """Moves a batch to the device."""
        return Batch(*(None if x is None else x.to(self.device) for x in batch))  # pyright: ignore[reportArgumentType]

    def autocast(self) -> AbstractContextManager:
        """A context in which products with weights are computed in the precision of the run."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._precision == "bfloat16")

    @property
    def random_state(self) -> Tensor:
        """The state of the generator that dropout draws from, a uint8 tensor; part of every checkpoint."""
        return torch.get_rng_state()

    @random_state.setter
    def random_state(self, state: Tensor) -> None:
        torch.set_rng_state(state)


class Clock:
    """Wall-clock seconds, and CPU seconds of this process, since the clock was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def cpu_seconds(self) -> float:
        return time.process_time() - self._cpu
