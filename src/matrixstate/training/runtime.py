"""Device, precision and random state of a training: the loop handles them only through this module."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal, TypeVar

import torch
from torch import Tensor

from matrixstate.data import Batch
from matrixstate.devices import CPU
from matrixstate.layers import MoE
from matrixstate.layers.linear import Linear
from matrixstate.models import LanguageModel
from matrixstate.training.config import RunConfig

Config = TypeVar("Config", bound=RunConfig)


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX); False where PyTorch cannot tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in older releases
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def resolve_precision(config: Config, device: torch.device = CPU) -> Config:
    """The config with the precision "auto" replaced by what it means on a device."""
    if config.training.precision != "auto":
        return config
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else has_fast_bfloat16()
    precision = "bfloat16" if fast and device.type in ("cpu", "cuda") else "float32"
    return dataclasses.replace(config, training=dataclasses.replace(config.training, precision=precision))


def permit_tf32(model: LanguageModel) -> None:
    """Lets projections compute in TF32 in training mode, forward and backward; a router of experts does not."""
    routers = {module.router for module in model.modules() if isinstance(module, MoE)}
    for module in model.modules():
        if isinstance(module, Linear) and module not in routers:
            module.training_backend = "tf32"


RandomState = dict[str, Tensor]
"""The states of the generators that dropout draws from, uint8: "random" of the CPU's, "random_device" of a GPU's."""


class Numbers:
    """Scalars of a step on their way from a device, which goes on computing meanwhile."""

    def __init__(self, scalars: Sequence[Tensor]) -> None:
        self._values: list[float] | None = None
        if scalars[0].device.type == "cpu":
            self._values = [scalar.item() for scalar in scalars]
            return
        self._source, self._arrived = torch.stack(list(scalars)), None
        device = self._source.device
        if device.type == "cuda":  # only into such memory does a GPU copy by itself
            self._source = torch.empty(len(scalars), pin_memory=True).copy_(self._source, non_blocking=True)
            self._arrived = torch.cuda.current_stream(device).record_event()  # of this GPU, which may not be the first

    def read(self) -> list[float]:
        """The numbers; waits for them at the first call."""
        if self._values is None:
            if self._arrived is not None:
                self._arrived.synchronize()
            self._values = self._source.tolist()
        return self._values


class Runtime:
    """The runtime of one process on one device.

    Args:
        precision: as in `TrainingConfig`, after `resolve_precision`.
        device: of the model, the optimizer and the batches.
    """

    def __init__(self, precision: Literal["float32", "bfloat16", "auto", "tf32"], device: torch.device = CPU) -> None:
        assert precision != "auto", "resolve_precision comes first"
        self.device = device
        self._precision = precision

    @property
    def runs_ahead(self) -> bool:
        """Whether the device computes on its own, so that reading a number from it means to wait for it."""
        return self.device.type != "cpu"

    def forget_peak(self) -> None:
        """Lets `peak_memory` begin anew."""
        forget = getattr(torch.get_device_module(self.device), "reset_peak_memory_stats", None)
        if self.runs_ahead and forget is not None:
            forget(self.device)

    @property
    def peak_memory(self) -> int | None:
        """The most bytes that tensors have taken on the device; None where PyTorch does not count them, as on a CPU."""
        peak = getattr(torch.get_device_module(self.device), "max_memory_allocated", None)
        return peak(self.device) if self.runs_ahead and peak is not None else None

    def seed(self, seed: int) -> None:
        """Seeds weight initialization and dropout."""
        torch.manual_seed(seed)

    def place(self, model: LanguageModel) -> LanguageModel:
        """Moves a model to the device."""
        if self._precision == "tf32":
            permit_tf32(model)
        return model.to(self.device)

    def move(self, batch: Batch) -> Batch:
        """Moves a batch to the device; to a GPU while it computes, from memory that it reads by itself."""
        return Batch(*(None if x is None else self._move(x) for x in batch))  # pyright: ignore[reportArgumentType]

    def _move(self, x: Tensor) -> Tensor:
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x.to(self.device)

    def autocast(self) -> AbstractContextManager:
        """A context in which products with weights are computed in the precision of the run."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._precision == "bfloat16")

    @property
    def random_state(self) -> RandomState:
        """The state of all random numbers of the training; part of every checkpoint."""
        state = {"random": torch.get_rng_state()}
        if self.device.type != "cpu":
            state["random_device"] = torch.get_device_module(self.device).get_rng_state(self._generator).cpu()
        return state

    @random_state.setter
    def random_state(self, state: RandomState) -> None:
        """Of a training on another kind of device, only the CPU's is restored; a GPU's stays as `seed` left it."""
        torch.set_rng_state(state["random"])
        if self.device.type != "cpu" and "random_device" in state:
            torch.get_device_module(self.device).set_rng_state(state["random_device"], self._generator)

    @property
    def _generator(self) -> torch.device | str:
        return self.device if self.device.type == "cuda" else self.device.type


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
