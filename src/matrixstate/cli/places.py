"""Where commands write: names beside others, and places that are checked before the work that ends there."""

import errno
import os
from pathlib import Path

from matrixstate.errors import ConfigError
from matrixstate.evaluation.plotting import expect_format


def beside(path: Path, suffix: str) -> Path:
    """`path` with `suffix` behind its name; that of a path without a name, as "." is, comes from where it leads."""
    return Path(f"{path if path.name not in ('', '..') else os.path.abspath(path)}{suffix}")


def free(wanted: Path) -> Path:
    """`wanted`, or with -2, -3, ... behind it where that exists."""
    names = (wanted if i == 1 else beside(wanted, f"-{i}") for i in range(1, 10_000))
    return next(path for path in names if not path.exists())


def make_directory(path: Path) -> None:
    """Makes a directory where there is none. Raises ConfigError where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"out: cannot write {path}: {error.strerror}") from error


def expect_place(what: str, path: Path | None) -> None:
    """Raises ConfigError where no file can be written at `path`, before the work whose result it is to hold."""
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
    """As `expect_place`, and ConfigError for an ending that names no format, MissingExtra without matplotlib."""
    expect_place("figure", path)
    if path is not None:
        expect_format(path)
