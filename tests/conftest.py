"""What every test file shares: the backends of this build, the thread counts, and the seeds of hypothesis."""

import os

import hypothesis
import pytest
import torch

# Before Triton's kernels are imported. `tests/compiled` needs the compiler instead, and a run of its own.
os.environ.setdefault("TRITON_INTERPRET", "1")

import reinmax_kernels
from reinmax_kernels import backends

pytest.register_assert_rewrite(
    "device_bernoulli",
    "device_boundaries",
    "device_codebook",
    "device_results",
    "device_routers",
    "device_traffic",
    "gpu.concurrency",
)

BACKENDS = ("reference",) if backends.native is None else ("reference", "cpu")

# Derandomised: a failure here is a failure everywhere, and a rerun proves a repair.
hypothesis.settings.register_profile(
    "reinmax_kernels",
    deadline=None,
    derandomize=True,
    max_examples=60,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("reinmax_kernels")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Runs the test once for each backend of this build, in force for the whole test."""
    with reinmax_kernels.backend(request.param):
        yield request.param


@pytest.fixture
def overload(backend):
    """The op overload that serves CPU tensors under `backend`."""
    return backends.overload(torch.device("cpu"))


@pytest.fixture(params=[1, 2])
def threads(request):
    """Runs the test at one and at two threads of PyTorch's pool."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
