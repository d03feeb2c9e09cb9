"""Exceptions and warnings for callers. The command line prints them in one line each, without a traceback."""

from collections.abc import Iterable


class MatrixStateError(Exception):
    """Base class of all errors that a caller can fix."""


class ShapeError(MatrixStateError, ValueError):
    """A tensor of a shape, dtype or device that the function does not accept."""


class DataError(MatrixStateError, ValueError):
    """A text, tokenizer or sequence of tokens that cannot be used for the purpose."""


class CheckpointError(MatrixStateError, RuntimeError):
    """A run, checkpoint or state file that is missing, damaged, or of another model; or one that cannot be written."""


class BackendUnavailable(MatrixStateError, RuntimeError):
    """No backend that is allowed can run on these inputs."""


class Diverged(MatrixStateError, ArithmeticError):
    """A loss, gradient or logit is not finite. In training, the weights are those before the step."""


class OutOfMemory(MatrixStateError, MemoryError):
    """The memory of a device does not suffice for a step of training; the message names options that need less."""


class MissingExtra(MatrixStateError, ImportError):
    """An optional dependency is not installed; the message names the extra that installs it."""


class ConfigError(MatrixStateError, ValueError):
    """One or more mistakes in a config, reported at once.

    `problems` holds one sentence per mistake, as "key: expected ..., got ...".
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))


def seed_checks(seed: int) -> tuple[tuple[bool, str], ...]:
    """The checks of a seed, for `require`. Below 2**63, since PyTorch's generators take a signed 64-bit integer."""
    return (
        (seed >= 0, f"seed: expected 0 or more, got {seed}"),
        (seed < 2**63, f"seed: expected less than 2**63, got {seed}"),
    )


class MatrixStateWarning(UserWarning):
    """Something that a caller should know but that is no error, such as a damaged checkpoint that was skipped."""


def require(*checks: tuple[bool, str]) -> None:
    """Raises one `ConfigError` with the messages of all (holds, message) checks that do not hold."""
    problems = [message for holds, message in checks if not holds]
    if problems:
        raise ConfigError(problems)
