"""The routers' Triton kernels on Triton's interpreter."""

import contextlib
import os

import device_routers
import pytest
import torch

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


class TestDispatchPlan(device_routers.DispatchPlan):
    pass


def test_more_experts_than_can_be_numbered_are_refused():
    for op in (triton_kernels.dispatch_plan, triton_kernels.expert_counts):
        with pytest.raises(ValueError, match="num_experts: expected fewer than 2147483647, got 2147483647"):
            op(torch.zeros(3, dtype=torch.int64), 2**31 - 1)
