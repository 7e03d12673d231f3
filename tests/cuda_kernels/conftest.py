"""One build for each architecture that a session needs."""

import functools
import os

import pytest

import cuda_toolkit

from .build import build
from .execution import executed as executed_by


@pytest.fixture(scope="session")
def build_for(tmp_path_factory):
    """The build for an architecture such as 90."""
    try:
        cuda_toolkit.nvcc()
    except cuda_toolkit.ToolkitError as error:
        if os.environ.get("FORCE_CUDA") == "1":
            raise
        pytest.skip(str(error))
    return functools.cache(lambda architecture: build(architecture, tmp_path_factory.mktemp(f"sm_{architecture}")))


@pytest.fixture
def executed(build_for):
    """The CUDA kernels, for the cases that all kernels share."""
    return lambda target=90, **options: executed_by(build_for(target), **options)
