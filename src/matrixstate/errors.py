"""Everything matrixstate raises at a caller. The command line prints these in one line, without a traceback."""

from collections.abc import Iterable


class MatrixStateError(Exception):
    """Base of every error that a caller can mend."""


class ShapeError(MatrixStateError, ValueError):
    """A tensor of another shape, dtype or device than the function takes."""


class DataError(MatrixStateError, ValueError):
    """A text, a tokenizer or a token stream that cannot be used as asked."""


class CheckpointError(MatrixStateError, RuntimeError):
    """A run or checkpoint that is missing, damaged or belongs to another model."""


class BackendUnavailable(MatrixStateError, RuntimeError):
    """No allowed backend can run these inputs."""


class Diverged(MatrixStateError, ArithmeticError):
    """A loss, gradient or logit is no longer finite; after a step of training, the weights are those before it."""


class MissingExtra(MatrixStateError, ImportError):
    """An optional part is not installed; the message names the extra that brings it."""


class ConfigError(MatrixStateError, ValueError):
    """One or more mistakes in a configuration, all reported at once.

    `problems` holds one sentence per mistake, each naming the key, what is expected and what was got.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("; ".join(self.problems))


def seed_checks(seed: int) -> tuple[tuple[bool, str], ...]:
    """What `require` asks of a seed: PyTorch's generators take 64 bits."""
    return (
        (seed >= 0, f"seed: expected 0 or more, got {seed}"),
        (seed < 2**63, f"seed: expected less than 2**63, got {seed}"),
    )


class MatrixStateWarning(UserWarning):
    """What a caller should know although it is no error. The command line prints it in one line."""


def require(*checks: tuple[bool, str]) -> None:
    """Raise one `ConfigError` with the message of every (holds, message) pair that does not hold."""
    problems = [message for holds, message in checks if not holds]
    if problems:
        raise ConfigError(problems)
