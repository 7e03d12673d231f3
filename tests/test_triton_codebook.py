"""The codebook lookups' Triton kernels on Triton's interpreter."""

import contextlib
import os
from unittest import mock

import device_codebook
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from reinmax_kernels import backends, codebook_ops

if not backends.has_triton:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("the kernels are compiled in this run: TRITON_INTERPRET=1 is not set", allow_module_level=True)

from reinmax_kernels.triton_kernels import launch

from reinmax_kernels import triton_kernels

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of infinities and NaN


@contextlib.contextmanager
def interpreted(target=None, *, processors=None):
    """As on a device of so many multiprocessors."""
    with mock.patch.object(launch, "processors", return_value=processors or 1):
        yield triton_kernels


@pytest.fixture
def executed():
    return interpreted


class TestLookup(device_codebook.CodebookLookup):
    pass


class TestBackward(device_codebook.CodebookBackward):
    pass


class TestGradient(device_codebook.CodebookGradient):
    pass


def test_every_op_has_a_kernel():
    """Where one had none, the reference would serve it."""
    assert set(codebook_ops.TABLE) <= set(triton_kernels.__all__)


class Allocated(TorchDispatchMode):
    """Keeps all that is allocated, and counts its bytes. Of what is given there may be views."""

    def __init__(self, *given):
        super().__init__()
        self.given = {tensor.untyped_storage().data_ptr() for tensor in given}
        self.storages = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            storage = tensor.untyped_storage()
            self.storages.setdefault(storage.data_ptr(), storage)
        return result

    @property
    def bytes(self):
        return sum(storage.nbytes() for address, storage in self.storages.items() if address not in self.given)


@pytest.mark.parametrize("processors", [1, 132, 10_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_of_the_codebook", [True, False])
@pytest.mark.parametrize("tau", [None, torch.tensor(0.7, dtype=torch.float64)], ids=["", "tau"])
@pytest.mark.parametrize("name", device_codebook.BACKWARDS)
def test_of_the_logits_size_nothing_but_their_gradient_is_allocated(name, tau, is_of_the_codebook, dtype, processors):
    rows, codes, d = 4096, 4096, 16
    logits = torch.empty(rows, codes, dtype=dtype)
    codebook, v = (torch.zeros(n, d, dtype=dtype if is_of_the_codebook else torch.float32) for n in (codes, rows))
    index, log_sum_exp = torch.zeros(rows, dtype=torch.int64), torch.zeros(rows, dtype=torch.float64)
    allocated = Allocated(logits, codebook, v, index, log_sum_exp)
    with interpreted(processors=processors), mock.patch.object(launch, "run"), allocated:
        getattr(triton_kernels, name)(v, codebook, logits, index, log_sum_exp, None, tau)
        triton_kernels.codebook_gradient(v, index, codes)
    assert logits.nbytes < allocated.bytes <= 1.15 * logits.nbytes
