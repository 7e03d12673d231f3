"""The routers' Triton kernels on Triton's interpreter."""

import contextlib
import os

import device_routers
import pytest

from reinmax_kernels import backends

if not backends.has_triton:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the kernels are compiled in this run: TRITON_INTERPRET=1 is not set", allow_module_level=True)

from reinmax_kernels import triton_kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of infinities and NaN


@pytest.fixture
def executed():
    return lambda: contextlib.nullcontext(triton_kernels)


class TestSparseMixer(device_routers.SparseMixer):
    pass


class TestTopkRouter(device_routers.TopkRouter):
    pass
