"""Configs as frozen dataclasses, decoded from and encoded to plain data (what YAML and JSON hold).

Decoding reports all mistakes at once. A field may have type bool, int, float, str, Literal, another dataclass,
`X | None` or `tuple[X, ...]`. An abstract config, such as that of a mixer, is chosen by name: `Choices` maps its base
class to the names of its subclasses, and plain data holds `{kind: name, ...}`, or the name alone if every field has a
default. A name may also stand for a function that makes a whole config (a preset).
"""

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

import yaml

from matrixstate.errors import ConfigError
from matrixstate.plugins import plugin_hint

Choices = Mapping[type, Mapping[str, Any]]  # base class -> name -> subclass, or function that makes a config


class _Loader(yaml.SafeLoader):
    """Loads plain data: dates stay text, as in JSON, and duplicate keys are refused."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, form) for tag, form in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ConfigError(f"{key.value}: expected one value, got a second in line {key.start_mark.line + 1}")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)  # other keys are refused by YAML
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Plain data from YAML text. Raises ConfigError for invalid YAML and duplicate keys."""
    try:
        return _Loader(text).get_single_data()
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 0x_ resolves to a number, but is none
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}") from error


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError for a missing or malformed file."""
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        what = error if isinstance(error, ConfigError) else f"not YAML: {error}"
        raise ConfigError(f"config {path}: {what}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"config {path}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"config {path}: expected a mapping of options, got {type(data).__name__}")
    return data


def override(data: dict[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with the option of each "a.b.0.c=VALUE" set, and made where it is missing; VALUE is YAML.

    Raises ConfigError for assignments that are malformed or have no place in `data`.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError(f"--set {assignment}: expected KEY.KEY=VALUE")
        try:
            value = read_yaml(text)
        except ConfigError as error:
            raise ConfigError(f"--set {assignment}: {error}") from error
        data = _set(data, keys, value, assignment)
    return data


def _set(data: Any, keys: list[str], value: Any, assignment: str) -> Any:
    """A copy of `data` with the value at the path `keys` replaced; what is off the path is shared."""
    if not keys:
        return value
    key, rest = keys[0], keys[1:]
    if isinstance(data, list):
        if not key.isdigit() or int(key) >= len(data):
            raise ConfigError(f"--set {assignment}: expected an index below {len(data)}, got {key!r}")
        return [_set(item, rest, value, assignment) if i == int(key) else item for i, item in enumerate(data)]
    if data is not None and not isinstance(data, dict):
        raise ConfigError(f"--set {assignment}: expected a mapping of options with {key!r} in it, got {data!r}")
    data = data or {}
    return {**data, key: _set(data.get(key), rest, value, assignment)}


def encode(config: Any, choices: Choices) -> Any:
    """Plain data that `decode` turns back into an equal config."""
    if dataclasses.is_dataclass(config):
        fields = {f.name: encode(getattr(config, f.name), choices) for f in dataclasses.fields(config)}
        for names in choices.values():
            for name, cls in names.items():
                if cls is type(config):
                    return {"kind": name, **fields}
        return fields
    if isinstance(config, tuple):
        return [encode(item, choices) for item in config]
    return config


def flatten(data: Any, path: str = "") -> dict[str, Any]:
    """Plain data as {"a.b.0.c": value}; empty mappings and lists are values."""
    if not isinstance(data, dict | list) or not data:
        return {path: data}
    items = data.items() if isinstance(data, dict) else enumerate(data)
    prefix = f"{path}." if path else ""
    return {key: value for name, part in items for key, value in flatten(part, f"{prefix}{name}").items()}


def decode(cls: type, data: Any, choices: Choices) -> Any:
    """The config of class `cls` from plain data.

    Raises ConfigError with one sentence per mistake: unknown keys (with the nearest known one), missing keys, wrong
    types, and the errors of the classes' own checks.
    """
    problems: list[str] = []
    config = _decode(cls, data, "", choices, problems)
    if problems:
        raise ConfigError(problems)
    return config


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error for an unknown name: "; did you mean NAME?" if one is close, else the known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _decode(kind: Any, data: Any, path: str, choices: Choices, problems: list[str]) -> Any:
    """`data` as a value of type `kind`. Appends every mistake to `problems`; the result then means nothing."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if data is None and type(None) in args:
            return None
        (kind,) = [a for a in args if a is not type(None)]  # `X | None` is the only union allowed
        return _decode(kind, data, path, choices, problems)
    if origin is Literal:
        return _expect(data in args, data, f"one of {', '.join(map(str, args))}", path, problems)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            return _expect(False, data, "a list", path, problems)
        return tuple(_decode(args[0], item, f"{path}.{i}", choices, problems) for i, item in enumerate(data))
    if kind in choices:
        return _decode_choice(kind, data, path, choices, problems)
    if dataclasses.is_dataclass(kind):
        return _decode_fields(typing.cast(type, kind), data, path, choices, problems)
    return _decode_scalar(kind, data, path, problems)


def _decode_choice(kind: type, data: Any, path: str, choices: Choices, problems: list[str]) -> Any:
    names = choices[kind]
    if isinstance(data, kind):
        return data
    name = data if isinstance(data, str) else data.get("kind") if isinstance(data, dict) else None
    if name is None and isinstance(data, dict) and not inspect.isabstract(kind):  # not by name, but option by option
        return _decode_fields(kind, data, path, choices, problems)
    if name is None:
        return _expect(False, data, f"a mapping with a kind, one of {', '.join(names)}", path, problems)
    if not isinstance(name, str) or name not in names:
        hint = nearest(str(name), names)
        hint += "" if "did you mean" in hint else plugin_hint(names)  # a typo needs no plug-in
        problems.append(f"{path}: unknown name {name!r}{hint}")
        return None
    chosen = names[name]
    if not isinstance(chosen, type):  # a preset
        return chosen()
    fields = {} if isinstance(data, str) else {k: v for k, v in data.items() if k != "kind"}
    return _decode_fields(chosen, fields, path, choices, problems)


def _decode_fields(cls: type, data: Any, path: str, choices: Choices, problems: list[str]) -> Any:
    if isinstance(data, cls):
        return data
    if not isinstance(data, dict):
        return _expect(False, data, "a mapping of options", path, problems)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    prefix = f"{path}." if path else ""
    for key in data:
        if key not in fields:
            problems.append(f"{prefix}{key}: unknown key{nearest(str(key), fields)}")
    values, before = {}, len(problems)
    for name, field in fields.items():
        if name in data:
            values[name] = _decode(hints[name], data[name], f"{prefix}{name}", choices, problems)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{prefix}{name}: missing")
    if len(problems) > before:  # the class cannot check what could not be decoded
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        problems.extend(f"{prefix}{problem}" for problem in error.problems)
        return None


def _decode_scalar(kind: type, data: Any, path: str, problems: list[str]) -> Any:
    if kind is float:
        try:
            fits = isinstance(data, int | float | str) and not isinstance(data, bool)  # YAML 1.1 reads 1e-3 as text
            return _expect(fits, float(data) if fits else data, "a number", path, problems)
        except (ValueError, OverflowError):
            return _expect(False, data, "a number", path, problems)
    expected = {int: "a whole number", bool: "true or false", str: "text"}.get(kind, kind.__name__)
    return _expect(
        isinstance(data, kind) and (kind is bool or not isinstance(data, bool)), data, expected, path, problems
    )


def _expect(fits: bool, data: Any, expected: str, path: str, problems: list[str]) -> Any:
    if not fits:
        problems.append(f"{path or 'config'}: expected {expected}, got {data!r}")
    return data
