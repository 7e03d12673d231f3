"""The Triton kernels, for the cases that all kernels share."""

import pytest


@pytest.fixture
def executed():
    from .execution import executed  # not where the tests of this folder are skipped

    return executed
