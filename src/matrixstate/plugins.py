"""Plug-ins: mixers, tasks, tokenizers and metrics from a file or an installed package that the caller names.

A plug-in is a Python module with one or more of the tables `MIXERS`, `TASKS`, `TOKENIZERS` and `METRICS`, from names in
config files to classes, as this package has them. An installed package registers the module, or a single class, as an
entry point in the group `matrixstate.mixers` (or `.tasks`, `.tokenizers`, `.metrics`).

Nothing is imported unless the caller names it. A run records the plug-ins that were loaded when it was made, so that
opening it without them names what is missing.
"""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from matrixstate.errors import ConfigError

KINDS = ("mixers", "tasks", "tokenizers", "metrics")


@dataclass(frozen=True)
class Plugin:
    """A plug-in that was loaded."""

    name: str
    """The name of the file or of the entry point."""
    source: str
    """The absolute path of the file, or the name of the entry point: `load_plugins` loads it in another process."""
    sha256: str | None
    """Of the file; None for an installed package."""
    tables: dict[str, dict[str, Any]]
    """Kind -> name -> class."""

    def data(self) -> dict[str, Any]:
        """Plain data for a run's environment.json."""
        names = {kind: sorted(table) for kind, table in self.tables.items()}
        return {"name": self.name, "sha256": self.sha256, **names}


@dataclass(frozen=True)
class _Extensible:
    """A table of this package that plug-ins may extend."""

    table: dict[str, Any]
    base: type
    built_in: frozenset[str]


_extensible: dict[str, _Extensible] = {}  # by kind, of `KINDS`
_loaded: dict[str, Plugin] = {}  # by source

T = TypeVar("T", bound=dict[str, Any])


def extensible(kind: str, table: T, base: type) -> T:
    """Lets plug-ins add subclasses of `base` to a table; returns the table, which changes in place."""
    _extensible[kind] = _Extensible(table, base, frozenset(table))
    for plugin in _loaded.values():  # the table's module may be imported after the plug-in was loaded
        _add(plugin, kind)
    return table


def load_plugins(sources: Iterable[str | Path]) -> None:
    """Loads plug-ins, which adds their names to this package's tables. Runs their code.

    A plug-in that is loaded already is skipped, unless its file has changed.

    Args:
        sources: paths of files ending in .py, or names of entry points of installed packages.

    Raises:
        ConfigError: there is no such plug-in, it cannot be imported, a class is of the wrong type, or a name is taken.
    """
    for source in map(str, sources):
        plugin = _from_file(Path(source)) if source.endswith(".py") else _from_package(source)
        before = _loaded.get(plugin.source)
        if before is not None and before.sha256 == plugin.sha256:
            continue
        if before is not None:
            _remove(before)
        try:
            for kind in plugin.tables:
                _add(plugin, kind)
        except ConfigError:
            _remove(plugin)
            raise
        _loaded[plugin.source] = plugin


def loaded_plugins() -> tuple[Plugin, ...]:
    """The loaded plug-ins, in the order in which they were loaded."""
    return tuple(_loaded.values())


def unload_plugins() -> None:
    """Removes all plug-ins and their names from the tables."""
    for plugin in loaded_plugins():
        _remove(plugin)


def missing_plugins(environment: Path) -> tuple[str, ...]:
    """The names of plug-ins that an environment.json records but that are not loaded; none if it is unreadable."""
    try:
        recorded = json.loads(environment.read_text(encoding="utf-8")).get("plugins", [])
        names = [str(plugin["name"]) for plugin in recorded]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
    known = {plugin.name for plugin in loaded_plugins()}
    return tuple(name for name in names if name not in known)


def ask_for(names: Iterable[str]) -> str:
    """The end of an error that asks for missing plug-ins; empty for none."""
    names = list(names)
    options = " ".join(f"--plugin {name}" for name in names)
    return f"; it was made with a plug-in that is not loaded: {options} (in Python: plugins={names})" if names else ""


def plugin_hint(table: Any) -> str:
    """The end of an error for an unknown name: that a plug-in may have it, if plug-ins may extend this table."""
    is_extensible = any(table is each.table for each in _extensible.values())
    return "; names of plug-ins need --plugin FILE" if is_extensible else ""


def _add(plugin: Plugin, kind: str) -> None:
    """Adds a plug-in's names to the table of a kind, if that table's module is imported already."""
    ours, theirs = _extensible.get(kind), plugin.tables.get(kind, {})
    if ours is None:
        return
    for name, part in theirs.items():
        what = f"plug-in {plugin.name}: {kind.upper()}"
        if not (isinstance(part, type) and issubclass(part, ours.base)):
            raise ConfigError(f"{what}: expected a subclass of {ours.base.__name__} for {name!r}, got {part!r}")
        if ours.table.get(name, part) is not part:
            raise ConfigError(f"{what}: expected a name that is not taken, got {name!r}")
    ours.table.update(theirs)


def _remove(plugin: Plugin) -> None:
    """Takes a plug-in's names out of the tables, but not those of this package or of other plug-ins."""
    for kind, table in plugin.tables.items():
        ours = _extensible.get(kind)
        for name, part in table.items():
            if ours is not None and name not in ours.built_in and ours.table.get(name) is part:
                del ours.table[name]
    _loaded.pop(plugin.source, None)


def _from_file(path: Path) -> Plugin:
    """Imports a file, or returns its plug-in if it is loaded and has not changed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"plug-in {path}: cannot be read: {error.strerror}") from error
    source, sha256 = str(path.resolve()), hashlib.sha256(content).hexdigest()
    before = _loaded.get(source)
    if before is not None and before.sha256 == sha256:
        return before
    # the name depends on the path alone, so that a worker process finds its classes under the same name
    name = f"matrixstate_plugin_{path.stem}_{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    earlier, sys.modules[name] = sys.modules.get(name), module  # dataclasses look up their module during import
    try:
        spec.loader.exec_module(module)
        return Plugin(path.name, source, sha256, _tables(module, path.name))
    except BaseException as error:  # also Ctrl-C: no half-imported module stays behind
        del sys.modules[name]
        if earlier is not None:
            sys.modules[name] = earlier
        if not isinstance(error, Exception) or isinstance(error, ConfigError):
            raise
        raise ConfigError(f"plug-in {path}: cannot be imported: {type(error).__name__}: {error}") from error


def _from_package(name: str) -> Plugin:
    """Loads all entry points of that name, which may be modules with tables or single classes."""
    groups = {kind: metadata.entry_points(group=f"matrixstate.{kind}", name=name) for kind in KINDS}
    if not any(groups.values()):
        known = sorted({point.name for kind in KINDS for point in metadata.entry_points(group=f"matrixstate.{kind}")})
        raise ConfigError(
            f"plug-in {name}: expected a file that ends in .py or the name of an installed one "
            f"({', '.join(known) or 'none is installed'})"
        )
    tables: dict[str, dict[str, Any]] = {}
    for kind, points in groups.items():
        for point in points:
            try:
                found = point.load()
            except Exception as error:
                raise ConfigError(f"plug-in {name}: cannot be imported: {type(error).__name__}: {error}") from error
            own = _tables(found, name) if isinstance(found, ModuleType) else {kind: {name: found}}
            for each, table in own.items():
                tables.setdefault(each, {}).update(table)
    return Plugin(name, name, None, tables)


def _tables(module: ModuleType, name: str) -> dict[str, dict[str, Any]]:
    """The tables of a plug-in's module, kind -> name -> class. Raises ConfigError for none and for malformed ones."""
    tables = {kind: getattr(module, kind.upper()) for kind in KINDS if hasattr(module, kind.upper())}
    if not tables:
        raise ConfigError(f"plug-in {name}: expected one of the tables {', '.join(k.upper() for k in KINDS)}, got none")
    for kind, table in tables.items():
        if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
            raise ConfigError(f"plug-in {name}: {kind.upper()}: expected a dictionary of names, got {table!r}")
    return tables
