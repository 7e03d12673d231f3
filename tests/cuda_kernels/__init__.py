"""The CUDA kernels without a GPU: what nvcc makes of them runs on `tests/ptx`, launched by their own host code. It is a
part of the run of the compiled Triton kernels, with which they are compared: `TRITON_INTERPRET=0 pytest
tests/cuda_kernels`.
"""

import os

import pytest

if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
    pytest.skip("kernels are interpreted in this run: TRITON_INTERPRET=0 is not set", allow_module_level=True)
