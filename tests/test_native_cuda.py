"""The CUDA kernels compiled for the host, with tests/native/host_cuda for CUDA: a block's threads take turns on one of
the host's. It needs neither a GPU nor nvcc. Under `make sanitize` AddressSanitizer sees each access outside of a tensor
and of the memory that a launch asks for, and UndefinedBehaviorSanitizer the arithmetic.
"""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import compilation
import device_bernoulli
import device_boundaries
import device_codebook
import device_results
import device_routers
import filelock
import numpy as np
import pytest
import torch
from test_native import KNOWN_ANSWERS

from bench.static.cuda.build import OPS
from reinmax_kernels.reference import contract

ROOT = Path(__file__).resolve().parents[1]
HOST = ROOT / "tests/native/host_cuda"
NAMESPACE = "reinmax_kernels_on_host"
FLAGS = ["-std=c++17", "-O1", "-g", "-ffp-contract=off"]
MACROS = [f"-Dreinmax_kernels={NAMESPACE}", "-DTORCH_TARGET_VERSION=0x020A000000000000"]  # the latter as in setup.py
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build(folder):
    """The module, which makes its ops known when it is loaded. What is there already is not built again."""
    sources = sorted(HOST.glob("*.cpp"))
    firsts = {".cpp": ROOT / "bench/static/cuda/on_cpu_tensors.h", ".cu": HOST / "cuda_runtime.h"}
    for path in sorted(path for path in (ROOT / "csrc/cuda").iterdir() if path.suffix in firsts):
        sources.append(folder / f"{path.stem}_{path.suffix[1:]}.cpp")
        if not sources[-1].exists():
            sources[-1].write_text(f'#include "{firsts[path.suffix]}"\n\n#include "cuda/{path.name}"\n')
    sanitizers = SANITIZERS if os.environ.get("REINMAX_KERNELS_SANITIZE") == "1" else []
    return compilation.load(
        name="reinmax_kernels_native_cuda_test",
        sources=[str(path) for path in sources],
        extra_include_paths=[str(HOST), str(ROOT / "csrc")],
        extra_cflags=FLAGS + MACROS + sanitizers,
        extra_ldflags=sanitizers,
        build_directory=str(folder),
    )


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "native_cuda"
    folder.mkdir(exist_ok=True)
    schemas = torch.library.Library(NAMESPACE, "DEF")  # forgotten when it is collected
    for name, op in OPS.items():
        schemas.define(name + op.schema)
    with filelock.FileLock(f"{folder}.lock"):
        module = build(folder)
    yield module
    del schemas


class Device:
    """The ops, under the names of the op table."""

    def __getattr__(self, name):
        return getattr(getattr(torch.ops, NAMESPACE), name).default


@pytest.fixture
def executed(native):
    """The kernels on the host, for the cases that all kernels share."""

    @contextmanager
    def on_host(target=None, *, processors=None):
        native.set_processors(processors or 1)
        yield Device()

    return on_host


WHOLE_ROWS = 4  # occupy the one multiprocessor of the smallest device


class TestDraws(device_results.Draws):
    whole_rows = WHOLE_ROWS


class TestGradients(device_results.Gradients):
    whole_rows = WHOLE_ROWS


class TestNoisyGradients(device_results.NoisyGradients):
    pass


class TestRows(device_results.Rows):
    pass


class TestSparseMixer(device_routers.SparseMixer):
    pass


class TestTopkRouter(device_routers.TopkRouter):
    pass


class TestDispatchPlan(device_routers.DispatchPlan):
    pass


class TestBoundaries(device_boundaries.DrawsAtBoundaries):
    pass


class TestBits(device_bernoulli.Draws):
    pass


class TestGradientsOfBits(device_bernoulli.Gradients):
    pass


class TestElements(device_bernoulli.Elements):
    pass


class TestCodebookBackward(device_codebook.CodebookBackwardOfReals):
    @pytest.mark.parametrize("name", device_codebook.BACKWARDS)
    def test_several_products(self, executed, name):
        """Of 2^20 elements or a 16th of the rows each: the last one has fewer rows."""
        logits, codebook, v = torch.randn(2100, 1001), torch.randn(1001, 3), torch.randn(2100, 3)
        mask = torch.rand(2100, 1001) < 0.9
        mask[:, 0] = True
        for allowed, tau in ((None, None), (mask, 0.7)):
            self.check(executed, name, v, codebook, logits, tau, allowed)


class TestCodebookGradient(device_codebook.CodebookGradientBySorting):
    @pytest.mark.parametrize(
        ("rows", "codes"),
        [(9 * 1024 + 5, 1), (9 * 1024 + 5, 2**23), (17 * 1024 + 5, 3000), (2**18 + 5, 1)],
    )
    def test_many_rows(self, executed, rows, codes):
        """Merged in one launch and in several; of each code many pieces, or few; the longest pieces."""
        index = torch.randint(codes, (rows,))
        index[torch.rand(rows) < 0.5] = codes // 2
        self.check(executed, torch.randint(-1000, 1000, (rows, 1)).double(), index, codes)  # exact in any order


# Functions by themselves, over more numbers than any row holds.


@pytest.mark.parametrize("largest", [0.0, 3.7, -1e3])
def test_integer_weights_are_the_contracts(native, largest):
    """Also from the largest on for every float32 of an interval, and far below it, where they are 0."""
    near = -np.arange(*np.float32([0.3, 0.4]).view(np.int32), dtype=np.int32).view(np.float32)
    x = np.float32(largest) + np.concatenate([near, -np.linspace(0, 50, 500_001), [-1e30, -np.inf]]).astype(np.float32)
    t = (torch.from_numpy(x) - torch.tensor(largest)) * torch.tensor(contract.LOG2_E)
    expected = (contract.exp2(t).double() * 2**contract.WEIGHT_BITS).round().long()
    expected[torch.from_numpy(x).isinf()] = 0
    found = native.integer_weight(x, np.float32(largest))
    assert np.array_equal(found, expected.numpy())
    assert (found > 0).any()
    assert (found == 0).any()
    some = x[:: x.size // 1000][: contract.CHUNK]
    assert native.weight_sum(some, largest) == int(native.integer_weight(some, np.float32(largest)).sum())
    assert native.weight_sum(np.full(contract.CHUNK, largest, np.float32), largest) == contract.CHUNK << 39


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_uniforms_are_philoxs_known_answers(native, counter, key, answer):
    def words(low, high):
        return low | high << 32

    found = native.uniforms(words(*key), words(*counter[:2]), words(*counter[2:]))
    assert found == (words(*answer[:2]), words(*answer[2:]))


def test_logarithms_of_noise(native):
    """Of all of its uniforms, and of one and what is from far below its rounding to the largest ratio."""
    u = native.noise_uniform(np.arange(2**23, dtype=np.uint32) << 9)
    np.testing.assert_allclose(native.minus_log(u), -np.log(u.astype(np.float64)), rtol=1.5e-7, atol=0)
    x = np.exp(np.linspace(-70, 80, 1_000_001)).astype(np.float32)
    np.testing.assert_allclose(native.log_of_one_and(x), np.log1p(x.astype(np.float64)), rtol=2.5e-7, atol=0)
    assert native.log_of_one_and(0.0) == 0


# What stands in for CUDA.


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_round_as_torchs(native, dtype):
    """Of every float32 with the upper 20 bits free, and so at ties, in subnormal numbers and beyond the largest."""
    x = (torch.arange(2**20, dtype=torch.int64) << 12).to(torch.int32).view(torch.float32)
    found = getattr(native, f"through_{str(dtype).removeprefix('torch.')}")(x.numpy())
    np.testing.assert_array_equal(found, x.to(dtype).float().numpy())


def test_threads_that_wait_for_one_that_does_not_come_are_an_error(native):
    with pytest.raises(RuntimeError, match="threads wait for others that don't come"):
        native.meet_without_the_last_warp()
