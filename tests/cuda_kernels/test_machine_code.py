"""Gates for the machine code: no local memory, half of a multiprocessor's threads resident, accesses of 16 bytes, and
so many instructions an element at most in the loops over long rows.
"""

import device_bernoulli
import pytest
import torch
from device_results import IN_PARTS, backward, seed

from bench.static.specimens import MOST_EXPERTS

from .execution import executed

OTHERS = [pytest.param(architecture, marks=pytest.mark.slow) for architecture in (80, 100, 120)]
ARCHITECTURES = pytest.mark.parametrize("architecture", [90, *OTHERS])
LEAST_OCCUPANCY = 0.5
WIDE = 128  # bits
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
CATEGORIES = [4, 8, 10, 64, 1024, 4096, 32768]


def sample(device, x):
    device.sample(x, seed(), None, 0, 0)


def sample_dense(device, x):
    device.sample_dense(x, seed(), None, 0, 0)


def gradient(name, *, tempered=False, both=False):
    def work(device, x):
        index, log_sum_exp = torch.zeros(len(x), dtype=torch.int64), torch.zeros(len(x), dtype=torch.float64)
        tau = torch.ones((), dtype=torch.float64) if tempered else None
        backward(device, name, x, x if both else None, x, index, log_sum_exp, None, tau)

    return work


def router(name, *operands):
    def work(device, x):
        getattr(device, name)(x, *operands)

    return work


def gradient_of_router(name, *settings):
    def work(device, x):
        g, index = torch.empty_like(x[:, :2]), torch.zeros(len(x), 2, dtype=torch.int64)
        state = (index.double(), None) if name.startswith("sparse") else ()
        getattr(device, name)(g, x, index, *state, *settings)


def bernoulli(device, x):
    device.bernoulli(x, seed(), None, 0, 0)


def gradient_of_bits(estimator, *, both=False):
    def work(device, x):
        name = f"bernoulli_{estimator}_backward"
        tau = torch.ones((), dtype=torch.float64) if both else None
        getattr(device, name)(x, x if both else None, x, x, None, tau, *device_bernoulli.BACKWARDS[name])

    return work


REINMAX, STRAIGHT_THROUGH = "reinmax_backward", "straight_through_backward"
GAPPED, GUMBEL = "gapped_straight_through_backward", "gumbel_rao_backward"
OF_BITS = ("reinmax", "straight_through", "gumbel_softmax")
PATHS = {
    "sample": sample,
    "sample_dense": sample_dense,
    REINMAX: gradient(REINMAX),
    f"{REINMAX}, tau, both": gradient(REINMAX, tempered=True, both=True),
    STRAIGHT_THROUGH: gradient(STRAIGHT_THROUGH),
    f"{STRAIGHT_THROUGH}, tau": gradient(STRAIGHT_THROUGH, tempered=True),
    f"{GAPPED}, tau, both": gradient(GAPPED, tempered=True, both=True),
    GUMBEL: gradient(GUMBEL),
    f"{GUMBEL}, tau, both": gradient(GUMBEL, tempered=True, both=True),
    "bernoulli": bernoulli,
    **{f"{each} of bits": gradient_of_bits(each) for each in OF_BITS},
    **{f"{each} of bits, tau, both": gradient_of_bits(each, both=True) for each in OF_BITS},
}
ROUTERS = {
    "sparse_mixer": router("sparse_mixer", seed(), None, 0, 0, 2, 2, 0.1),
    "sparse_mixer_backward": gradient_of_router("sparse_mixer_backward", 0.1, 1.0),
    "topk_router": router("topk_router", 2, False, True),
    "topk_router_backward": gradient_of_router("topk_router_backward", False, True),
}
PATHS |= ROUTERS


def categories_of(path):
    """For each of a path's kernels some that take it."""
    return [8, 64, 256, 1024] if path in ROUTERS else CATEGORIES


def launches(build, path, rows, categories, dtype):
    """What is launched on a large device, with the machine code of each."""
    with executed(build, processors=IN_PARTS, runs=False) as device:
        PATHS[path](device, torch.empty(rows, categories, dtype=dtype))
    return [(launch, build.machine_code[launch.kernel]) for launch in device.launches]


@ARCHITECTURES
def test_no_kernel_uses_local_memory(build_for, architecture):
    kernels = build_for(architecture).machine_code.values()
    assert {each.name: each.stack_bytes for each in kernels if each.stack_bytes} == {}
    assert sum(each.local_loads + each.local_stores for each in kernels) == 0


@ARCHITECTURES
@pytest.mark.parametrize("path", PATHS)
def test_half_of_the_threads_are_resident(build_for, path, architecture):
    for dtype in DTYPES:
        for rows, categories in [(512, each) for each in (2, 10, *categories_of(path), 1001)] + [(4, 2**20)]:
            if path in ROUTERS and categories > MOST_EXPERTS:
                continue
            for launch, kernel in launches(build_for(architecture), path, rows, categories, dtype):
                found = kernel.occupancy(launch.block[0], launch.shared_bytes).fraction
                assert found >= LEAST_OCCUPANCY, (launch, dtype)


def loops(kernel):
    """Those that read a row."""
    return [loop for loop in kernel.loops if loop.innermost and wide_loads(loop)]


def wide_loads(loop):
    return sum(each.operation == "LDG" and each.width == WIDE for each in loop.instructions)


@ARCHITECTURES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", PATHS)
def test_rows_are_read_and_written_16_bytes_at_a_time(build_for, path, dtype, architecture):
    width, share_of_wide = WIDE, 0.6  # the rest is the mask's
    if path.startswith(GUMBEL):
        # Noise is no work that memory could hold up. Its kernels have no registers for more than four elements, and in
        # one loop both ways to access a row, of which a launch goes one.
        width, share_of_wide = min(WIDE, 4 * 8 * dtype.itemsize), 0.4
    tensors = 3 if path.endswith("both") else 2
    if path.startswith(("sample", "bernoulli")) or path in ROUTERS:
        tensors = 1
    if "of bits" in path and "straight_through" not in path:  # which has no use for the bits
        tensors += 1
    for categories in categories_of(path):
        steps = launches(build_for(architecture), path, 512, categories, dtype)
        for launch, kernel in steps:
            assert kernel.widths("LDG")[width] >= tensors, launch
            writes = path not in ("sample", "sparse_mixer", "topk_router")
            if writes and launch is steps[-1][0]:  # sums come before
                assert kernel.widths("STG")[width], launch
            for loop in loops(kernel):
                loaded = sum(each.width for each in loop.instructions if each.operation == "LDG")
                assert WIDE * wide_loads(loop) >= share_of_wide * loaded


# In float32, and in bfloat16.
MOST_INSTRUCTIONS = {"sample": (20, 20), "sample_dense": (20, 20), REINMAX: (16, 20), STRAIGHT_THROUGH: (32, 38)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("path", MOST_INSTRUCTIONS)
def test_loops_over_long_rows_are_short(build_for, path, dtype):
    """Of an element, in the shortest loop that reads rows: that for whole chunks without a mask, of a draw."""
    (_, kernel), *_ = launches(build_for(90), path, 512, 2**17, dtype)
    tensors = 1 if path.startswith("sample") else 2
    found = [
        len(loop.instructions) * tensors / (wide_loads(loop) * 16 // dtype.itemsize)
        for loop in loops(kernel)
        if wide_loads(loop) >= tensors
    ]
    assert min(found) <= MOST_INSTRUCTIONS[path][dtype == torch.bfloat16]
