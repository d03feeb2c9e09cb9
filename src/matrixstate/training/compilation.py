"""Compilation of a model's blocks by torch.compile, for training."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from matrixstate.errors import ConfigError
from matrixstate.models import LanguageModel

VARIANTS = 8  # of the code of a block, at most: batches and lengths for which it takes other branches


def expect_compiler(device: torch.device) -> None:
    """Raises ConfigError unless torch.compile makes code for a device. Cost: a few seconds in a process."""
    try:
        torch.compile(torch.add, dynamic=False)(torch.ones(2, device=device), torch.ones(2, device=device))
    except Exception as error:  # of many types: no compiler, none that works, no Triton, a device it does not know
        needed = "a C++ compiler" if device.type == "cpu" else "a C++ compiler and Triton"
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigError(
            f"training.compile: expected that torch.compile works on {device}, for which it needs {needed}, "
            f"got {reason}"
        ) from error


def compile_blocks(model: LanguageModel, dynamic: bool) -> None:
    """Lets every block be compiled when it first runs, in place: parameters keep their names.

    Args:
        model: evaluate it `uncompiled`, for its evaluations have other shapes.
        dynamic: whether a block's code is for every batch size and length; if not, each pair of them gets its own.
    """
    for block in model.blocks:
        # random numbers by PyTorch's own operators, so that dropout draws the same masks as without compilation
        block.compile(dynamic=dynamic, options={"fallback_random": True})


@contextmanager
def compiling(blocks: int) -> Iterator[None]:
    """A context for a model of so many compiled blocks, none of which goes on uncompiled unsaid.

    Raises ConfigError inside when a block has been compiled for `VARIANTS` shapes of batches and meets another.
    """
    from torch._dynamo import config, exc  # imported here, which takes seconds

    limit = VARIANTS * blocks  # blocks share their Python code, for which PyTorch counts
    try:
        with config.patch(recompile_limit=limit, fail_on_recompile_limit_hit=True):
            yield
    except exc.FailOnRecompileLimitHit as error:
        raise ConfigError(
            f"training.compile: expected at most {VARIANTS} variants of a block's code, got another; "
            "train with training.compile=false"
        ) from error


def uncompiled() -> AbstractContextManager:
    """A context in which compiled blocks run as if they were not."""
    return torch.compiler.set_stance("force_eager")
