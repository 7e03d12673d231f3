"""The Triton kernels of bits on Triton's interpreter."""

import contextlib
import os

import device_bernoulli
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


CUT_OFF = (torch.bfloat16,)  # by the interpreter


class TestDraws(device_bernoulli.Draws):
    cut_off = CUT_OFF


class TestGradients(device_bernoulli.Gradients):
    cut_off = CUT_OFF


class TestElements(device_bernoulli.Elements):
    pass
