"""Published implementations that tests compare with. None is needed to use the package."""

import os
import warnings
from importlib import import_module
from importlib.util import find_spec

import pytest


@pytest.fixture(scope="session")
def published():
    """A module of a published implementation by its name, such as "transformers"; skips the test where it is absent."""

    def find(name):
        package = name.partition(".")[0]
        if find_spec(package) is None:
            if os.environ.get("MATRIXSTATE_TEST_SKIPS") == "listed":
                pytest.fail(f"{package} must be installed here: pip install -e '.[dev]'")
            pytest.skip(f"{package} is not installed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what they import
            return import_module(name)

    return find
