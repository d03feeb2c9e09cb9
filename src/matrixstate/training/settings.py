"""What a run asks of PyTorch and of the machine as a whole: checked before it starts, set for it, restored after it."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from matrixstate.errors import ConfigError
from matrixstate.training.compilation import compiling, expect_compiler
from matrixstate.training.config import RunConfig

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
FIXED = (":4096:8", ":16:8")  # workspaces with which cuBLAS adds in a fixed order


def expect_settings(config: RunConfig, device: torch.device) -> None:
    """Raises ConfigError unless a run's options of training can be had on a device.

    Call it before anything starts CUDA: the workspace of cuBLAS, which deterministic runs need, is set here.
    """
    if config.training.deterministic and device.type == "cuda":
        _fix_workspace()
    if config.training.precision == "tf32":
        _expect_tf32(device)
    if config.training.compile:
        expect_compiler(device)


def _fix_workspace() -> None:
    """Sets the environment variable that cuBLAS reads once, when CUDA starts."""
    given = os.environ.get(WORKSPACE)
    if given in FIXED:
        return
    if given is not None or torch.cuda.is_initialized():
        raise ConfigError(
            f"training.deterministic: expected {WORKSPACE} in the environment to be {' or '.join(FIXED)} before CUDA "
            f"starts, got {given or 'none'}"
        )
    os.environ[WORKSPACE] = FIXED[0]


def _expect_tf32(device: torch.device) -> None:
    wanted = f"training.precision: expected float32, bfloat16 or auto on {device}, got tf32"
    if device.type != "cuda" or torch.version.cuda is None:
        raise ConfigError(f"{wanted}, a number format of NVIDIA's GPUs")
    capability = torch.cuda.get_device_capability(device)
    if capability < (8, 0):
        raise ConfigError(f"{wanted}, which begins with compute capability 8.0; it has {capability[0]}.{capability[1]}")


@contextmanager
def settings(config: RunConfig, device: torch.device) -> Iterator[None]:
    """A context in which PyTorch is set as a run on a device needs it. Raises ConfigError as `expect_settings`."""
    expect_settings(config, device)
    with ExitStack() as stack:
        if config.training.deterministic:
            stack.enter_context(_deterministic())
        if config.training.compile:
            stack.enter_context(compiling(len(config.model.layers)))
        yield


@contextmanager
def _deterministic() -> Iterator[None]:
    """A context in which PyTorch takes algorithms that give the same bits every time, or raises a RuntimeError."""
    before, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
