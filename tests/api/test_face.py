"""`import matrixstate` exports the names of `__all__` and all mixers, and imports nothing slow before it is needed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import matrixstate


def test_the_import_is_lazy():
    code = "import sys, matrixstate; print([m for m in ('torch', 'numpy', 'yaml', 'tyro', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_every_name_is_exported():
    for name in matrixstate.__all__:
        found = getattr(matrixstate, name)
        assert getattr(found, "__name__", None) in (name, f"matrixstate.{name}")
        assert name in dir(matrixstate)


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(matrixstate.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    names = [alias.name for node in block.body for alias in node.names]
    assert sorted(names) == sorted(["*", *matrixstate.__all__])
    assert [node.module for node in block.body if node.names[0].name == "*"] == ["matrixstate.mixers"]


def test_every_mixer_and_its_config_are_exported():
    from matrixstate.mixers import MIXERS

    for config in MIXERS.values():
        assert getattr(matrixstate, config.__name__) is config
        assert hasattr(matrixstate, config.__name__.removesuffix("Config"))
        assert config.__name__ in dir(matrixstate)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'matrixstate' has no attribute 'MRUU'"):
        _ = matrixstate.MRUU
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from matrixstate import nothing  # noqa: F401
