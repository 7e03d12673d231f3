"""The Triton kernels as the compiler makes them. A run of its own: `TRITON_INTERPRET=0 pytest tests/compiled`."""

import os

import pytest

from reinmax_kernels import backends

if not backends.has_triton:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
    pytest.skip("kernels are interpreted in this run: TRITON_INTERPRET=0 is not set", allow_module_level=True)
