"""Paths that commands write to: names that are not in use, and checks before the work begins."""

import errno
import os
from pathlib import Path

from matrixstate.errors import ConfigError
from matrixstate.evaluation.plotting import expect_format


def with_ending(path: Path, ending: str) -> Path:
    """`path` with `ending` appended to its name. Paths without a name, such as ".", are made absolute first."""
    return Path(f"{path if path.name not in ('', '..') else os.path.abspath(path)}{ending}")


def unused(wanted: Path) -> Path:
    """`wanted`, or if that exists the first of `wanted`-2, `wanted`-3, ... that does not."""
    names = (wanted if i == 1 else with_ending(wanted, f"-{i}") for i in range(1, 10_000))
    return next(path for path in names if not path.exists())


def make_directory(path: Path) -> None:
    """Makes a directory, unless there is one. Raises ConfigError if that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: cannot write {path}: {error.strerror}") from error


def expect_writable(what: str, path: Path | None) -> None:
    """Raises ConfigError if no file can be written at `path`; called before the work whose result it will hold."""
    if path is None:
        return
    if path.is_dir():
        reason = errno.EISDIR
    elif not path.parent.is_dir():
        reason = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
    else:
        reason = 0 if os.access(path.parent, os.W_OK) else errno.EACCES
    if reason:
        raise ConfigError(f"{what}: cannot write {path}: {os.strerror(reason)}")


def expect_figure(path: Path | None) -> None:
    """As `expect_writable`, for a figure: ConfigError also for an unknown format, MissingExtra without matplotlib."""
    expect_writable("figure", path)
    if path is not None:
        expect_format(path)
