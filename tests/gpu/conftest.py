import pytest
import torch

import reinmax_kernels
from reinmax_kernels import backends


@pytest.fixture(scope="session")
def device():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device("cuda")


@pytest.fixture(autouse=True, params=["cuda", "triton"])
def gpu_backend(request, device):
    """Runs the test once for each way in which kernels for a GPU are written here."""
    if request.param == "cuda" and not backends.cuda_architectures:
        pytest.skip("the CUDA kernels are not in this build")
    if request.param == "triton" and not backends.has_triton:
        pytest.skip("Triton is not installed")
    with reinmax_kernels.backend(request.param):
        yield request.param
