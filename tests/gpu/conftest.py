"""What needs a GPU: run by `make gpu`, skipped where there is none."""

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device("cuda")
