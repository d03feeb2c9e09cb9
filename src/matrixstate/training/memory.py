"""What is said where the memory of a device does not suffice for a step."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from matrixstate.data import Batch
from matrixstate.devices import describe
from matrixstate.errors import OutOfMemory
from matrixstate.training.config import TrainingConfig
from matrixstate.training.text_config import TextTrainingConfig


@contextmanager
def explaining(run: Path, training: TrainingConfig, device: torch.device, batch: Callable[[], Batch]) -> Iterator[None]:
    """A context that turns PyTorch's error for a lack of memory into an OutOfMemory that names what needs less.

    Args:
        run: the run's directory, for the command that resumes it.
        training: its options.
        device: where it is trained.
        batch: gives the step's batch; called for its shape where there is an error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        sequences, length = batch().tokens.shape
        parts = training.accumulate if isinstance(training, TextTrainingConfig) else 1
        at_once = f", {sequences // parts} at once," if parts > 1 else ""
        options = smaller(training)
        remedy = f"less is needed with {' or '.join(options) or 'shorter sequences or a smaller model'}"
        if options:
            remedy += (
                f"; as in: matrixstate train --resume {run} --set {options[0]} --accept {options[0].split('=')[0]}"
            )
        raise OutOfMemory(
            f"training: expected a step of {sequences} sequences of {length} tokens{at_once} to fit into the "
            f"{total_memory(device) / 1e9:.1f} GB of {describe(device)}, got out of memory; {remedy}"
        ) from error


def smaller(training: TrainingConfig) -> list[str]:
    """Options with which a step needs less memory, those that change least first."""
    options = []
    if isinstance(training, TextTrainingConfig):  # at most half as many sequences at once
        finer = [n for n in range(2 * training.accumulate, training.batch + 1) if training.batch % n == 0]
        options += [f"training.accumulate={n}" for n in finer[:1]]
    if training.recompute == "none":
        options.append("training.recompute=blocks")
    if training.precision != "bfloat16":
        options.append("training.precision=bfloat16")
    if not isinstance(training, TextTrainingConfig) and training.batch > 1:
        options.append(f"training.batch={training.batch // 2}")
    return options


def total_memory(device: torch.device) -> int:
    """The bytes of memory of a device; of a GPU that PyTorch does not ask, and of a CPU, the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
