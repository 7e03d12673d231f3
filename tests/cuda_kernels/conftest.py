"""One build for each architecture that a session needs, whatever the number of its processes."""

import functools
import os
import shutil

import filelock
import pytest

import cuda_toolkit
from bench.static.cuda.build import Build, build

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
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    @functools.cache
    def built(architecture):
        folder = shared / f"sm_{architecture}"
        with filelock.FileLock(f"{folder}.lock"):
            if not (folder / "library.so").exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                build(architecture, folder)
        return Build(architecture, folder)

    return built


@pytest.fixture
def executed(build_for):
    """The CUDA kernels, for the cases that all kernels share."""
    return lambda target=90, **options: executed_by(build_for(target), **options)
