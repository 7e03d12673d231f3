"""A whole kernel from nvcc: right as it is, and eleven faults planted in it, each of which is found.

Four of them, a missing barrier each, give the right numbers here: only the look for races finds them.
"""

import functools
import glob
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from . import Buffer, Kind, launch, parse
from .floats import narrow, widen
from .types import TYPES

SOURCE = Path(__file__).parent / "kernels" / "softmax_sample.cu"
NVCC = shutil.which("nvcc") or next(iter(sorted(glob.glob("/usr/local/cuda*/bin/nvcc"))), None)

pytestmark = pytest.mark.skipif(NVCC is None, reason="there is no nvcc to compile the kernel with")

BLOCKS = {"float": 256, "bfloat16": 128}
SEED, OFFSET, INVERSE_TEMPERATURE = 0x1234567890ABCDEF, 7, np.float32(0.9)

FAULTS = {
    "NO_BARRIER_IN_REDUCTION": {Kind.DATA_RACE},
    "NO_BARRIER_AFTER_REDUCTION": {Kind.DATA_RACE},
    "NO_BARRIER_IN_SCAN": {Kind.DATA_RACE},
    "NO_BARRIER_AT_LOOP_END": {Kind.DATA_RACE},
    "NOT_ATOMIC": {Kind.DATA_RACE},
    "UNINITIALIZED": {Kind.UNINITIALIZED},
    "MISALIGNED": {Kind.MISALIGNED},
    "LOAD_OUT_OF_BOUNDS": {Kind.OUT_OF_BOUNDS},
    "STORE_OUT_OF_BOUNDS": {Kind.OUT_OF_BOUNDS},
    "DIVERGENT_SHUFFLE": {Kind.DEADLOCK},
    "DIVERGENT_BARRIER": {Kind.DEADLOCK},
}


@functools.cache
def compiled(architecture="sm_90", fault=None):
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "kernel.ptx")
        command = [NVCC, "-ptx", f"-arch={architecture}", "-std=c++17", SOURCE, "-o", output]
        subprocess.run(command + ([f"-DPLANT_{fault}"] if fault else []), check=True)
        return parse(output.read_text())


def run(module, name, rows, categories, **options):
    """The kernel's results, with logits of a fixed seed, and its report."""
    type_ = TYPES["f32" if name == "float" else "bf16"]
    logits = narrow(np.random.default_rng(1).standard_normal((rows, categories)) * 3, type_)
    outputs = np.zeros_like(logits), np.full(rows, -1, np.int32), np.zeros(rows, np.float32)
    buffers = [Buffer(output, initialized=False) for output in outputs]
    scalars = [np.int32(categories), INVERSE_TEMPERATURE, np.uint64(SEED), np.uint64(OFFSET)]
    report = launch(module[f"softmax_sample_{name}"], (rows,), (BLOCKS[name],), [logits, *buffers, *scalars], **options)
    return widen(logits, type_), widen(outputs[0], type_), *outputs[1:], report


def philox(counter, key):
    """The first word of Philox4x32-10."""
    mask = 2**32 - 1
    for _ in range(10):
        product0, product1 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (product1 >> 32) ^ counter[1] ^ key[0],
            product1 & mask,
            (product0 >> 32) ^ counter[3] ^ key[1],
            product0 & mask,
        ]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return counter[0]


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
@pytest.mark.parametrize(
    ("name", "categories"), [("float", 1003), ("float", 4096), ("bfloat16", 1003), ("bfloat16", 4096)]
)
def test_kernel_is_right(architecture, name, categories):
    rows = 3
    logits, probabilities, sampled, normalizers, report = run(compiled(architecture), name, rows, categories)
    scaled = logits.astype(np.float64) * INVERSE_TEMPERATURE
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    expected = weights / weights.sum(axis=1, keepdims=True)
    uniform = [(philox([OFFSET, 0, row, 0], [SEED % 2**32, SEED >> 32]) >> 8) / 2**24 for row in range(rows)]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5 if name == "float" else 2**-8, atol=1e-38)
    assert (sampled == (expected.cumsum(axis=1) > np.array(uniform)[:, None]).argmax(axis=1)).all()
    np.testing.assert_allclose(normalizers, np.log(np.exp(scaled).sum(axis=1)), rtol=1e-6)

    element = 4 if name == "float" else 2
    elements = rows * categories
    assert report.global_loads.bytes == 2 * element * elements
    assert report.global_stores.bytes == element * elements + 8 * rows
    assert report.shared.bank_conflicts == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault):
    categories = 1003 if fault.endswith("OUT_OF_BOUNDS") else 4096
    report = run(compiled(fault=fault), "float", 2, categories, check=False)[-1]
    assert report.kinds >= FAULTS[fault]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.startswith("NO_BARRIER")])
def test_without_races_the_numbers_look_right(fault):
    found = run(compiled(fault=fault), "float", 2, 4096, races=False)
    sound = run(compiled(), "float", 2, 4096)
    for wrong, right in zip(found[:-1], sound[:-1], strict=True):
        assert (wrong == right).all()
