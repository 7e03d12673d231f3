"""Gates for the machine code: no local memory, half of a multiprocessor's threads resident, accesses of 16 bytes, and
enough of them under way at once, and so many instructions an element at most in the loops over long rows.
"""

import re

import device_bernoulli
import pytest
import torch
from device_results import IN_PARTS, backward, seed

from bench.static.specimens import MOST_EXPERTS

from .execution import executed

OTHERS = [pytest.param(architecture, marks=pytest.mark.slow) for architecture in (80, 100, 120)]
ARCHITECTURES = pytest.mark.parametrize("architecture", [90, *OTHERS])
LEAST_OCCUPANCY = 0.5
LEAST_WHERE_KEPT = 0.25  # of rows with several samples, in shared memory
WIDE = 128  # bits
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
CATEGORIES = [4, 8, 10, 64, 1024, 4096, 32768]
KEPT = [4104, 8200]  # by Gumbel-Rao in shared memory, in float64 and in other types


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

    return work


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
    GAPPED: gradient(GAPPED),
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
    if path.startswith(GUMBEL):
        return [*CATEGORIES, *KEPT]
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
                is_kept = launch.name == "gumbel_rao_kept_kernel"
                assert found >= (LEAST_WHERE_KEPT if is_kept else LEAST_OCCUPANCY), (launch, dtype)


@ARCHITECTURES
@pytest.mark.parametrize("dtype", DTYPES)
def test_half_of_the_threads_are_resident_for_a_codebook(build_for, dtype, architecture):
    """Of kernels that load two elements of a vector at once, and of those that load one."""
    build = build_for(architecture)
    for d in (64, 65):
        with executed(build, processors=IN_PARTS, runs=False) as device:
            index = torch.zeros(4096, dtype=torch.int64)
            device.codebook_gradient(torch.empty(len(index), d, dtype=dtype), index, 1024)
        assert len(device.launches) == 4
        for launch in device.launches:
            kernel = build.machine_code[launch.kernel]
            assert kernel.occupancy(launch.block[0], launch.shared_bytes).fraction >= LEAST_OCCUPANCY, launch


def loops(kernel):
    """Those that read a row."""
    return [loop for loop in kernel.loops if loop.innermost and wide_loads(loop)]


def wide_loads(loop, always=False):
    """always: without those under a predicate."""
    wide = [each for each in loop.instructions if each.operation == "LDG" and each.width == WIDE]
    return sum(not (always and each.predicate) for each in wide)


@ARCHITECTURES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", PATHS)
def test_rows_are_read_and_written_16_bytes_at_a_time(build_for, path, dtype, architecture):
    share_of_wide = 0.6  # the rest is the mask's
    if path.startswith(GUMBEL):
        share_of_wide = 0.35  # a loop has both ways to access a row, of which a launch goes one, and the mask in both
    state = 2 * 8 * (16 + dtype.itemsize) if path == "sparse_mixer_backward" else 0  # bits, of a row's two experts
    tensors = 3 if path.endswith("both") else 2
    if path.startswith(("sample", "bernoulli")) or path in ROUTERS:
        tensors = 1
    if "of bits" in path and "straight_through" not in path:  # which has no use for the bits
        tensors += 1
    for categories in categories_of(path):
        steps = launches(build_for(architecture), path, 512, categories, dtype)
        for launch, kernel in steps:
            assert kernel.widths("LDG")[WIDE] >= tensors, launch
            writes = path not in ("sample", "sparse_mixer", "topk_router")
            if writes and launch is steps[-1][0]:  # sums come before
                assert kernel.widths("STG")[WIDE], launch
            for loop in loops(kernel):
                loaded = sum(each.width for each in loop.instructions if each.operation == "LDG")
                assert WIDE * wide_loads(loop) >= share_of_wide * (loaded - state)


# Bytes of a multiprocessor, in a loop over a row and in a kernel without one, which asks once: what an H100's memory,
# 3.35 TB/s for 132 of them, brings in 1.3 us and 1.6 us, more than its latency. For a GeForce's, 1.79 TB/s for 170,
# less than half of that will do.
LEAST_UNDER_WAY, LEAST_WITHOUT_A_LOOP = 32 * 1024, 40 * 1024


def under_way(instructions):
    """Bytes that a thread has asked for when it comes to the first instruction that has to wait for some of them. Loads
    under a predicate, of what not all rows have, don't count.
    """
    asked, pending = 0, set()
    for each in instructions:
        registers = [int(number) for number in re.findall(r"\bR(\d+)", each.operands)]
        if pending.intersection(registers):
            break
        if each.operation == "LDG":
            pending.update(range(registers[0], registers[0] + max(1, each.width // 32)))
            asked += 0 if each.predicate else each.width // 8
    return asked


@ARCHITECTURES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("path", [REINMAX, STRAIGHT_THROUGH, f"{STRAIGHT_THROUGH}, tau", "sample"])
def test_enough_is_under_way(build_for, path, dtype, architecture):
    """In a loop over the row, or in a kernel that has none."""
    lengths = [4096, 32768] if path == "sample" else [8, 64, 256, 1024, 4096, 32768]
    for categories in lengths:
        (launch, kernel), *_ = launches(build_for(architecture), path, 8192, categories, dtype)
        of_loops = [under_way(loop.instructions) for loop in loops(kernel)]
        asked, least = under_way(kernel.instructions), LEAST_WITHOUT_A_LOOP
        if of_loops:
            asked, least = max(of_loops), LEAST_UNDER_WAY
        if architecture >= 120:
            least //= 2
        warps = kernel.occupancy(launch.block[0], launch.shared_bytes).warps
        assert 32 * warps * asked >= least, (launch, asked, warps)


# In float32, and in bfloat16.
MOST_INSTRUCTIONS = {
    "sample": (20, 20),
    "sample_dense": (20, 20),
    REINMAX: (15, 17),
    STRAIGHT_THROUGH: (13, 18),
    GAPPED: (18, 23),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("path", MOST_INSTRUCTIONS)
def test_loops_over_long_rows_are_short(build_for, path, dtype):
    """Of an element, in the shortest loop that reads rows: of a draw that for whole chunks without a mask, of a
    gradient one with exponentials. Loads under a predicate, of the gradient that is not there, bring no elements.
    """
    (_, kernel), *_ = launches(build_for(90), path, 512, 2**17, dtype)
    is_draw = path.startswith("sample")
    found = []
    for loop in loops(kernel):
        loaded = wide_loads(loop, always=True)
        if loaded and (is_draw or loop.mix["MUFU"]):
            elements = loaded * 16 / dtype.itemsize / (1 if is_draw else 2)
            found.append(len(loop.instructions) / elements)
    assert min(found) <= MOST_INSTRUCTIONS[path][dtype == torch.bfloat16]


# Of an element and a sample of noise, in float32, at tau = 1 and at another: rows of two categories, rows in registers,
# and long ones where they are written.
MOST_FOR_A_SAMPLE = {2: (26, 49), 1000: (53, 80), 2**17: (41, 68)}
OF_A_THREAD = {2: 4, 1000: 8, 2**17: 8}  # elements of a row, or, of two categories, samples


@pytest.mark.parametrize("tempered", [False, True])
@pytest.mark.parametrize("categories", MOST_FOR_A_SAMPLE)
def test_loops_over_samples_are_short(build_for, categories, tempered):
    path = f"{GUMBEL}, tau, both" if tempered else GUMBEL
    *_, (_, kernel) = launches(build_for(90), path, 512, categories, torch.float32)
    makes_noise = [loop for loop in kernel.loops if loop.innermost and loop.mix["MUFU"] and not loop.mix["LDG"]]
    longest = max(len(loop.instructions) for loop in makes_noise)
    assert longest / OF_A_THREAD[categories] <= MOST_FOR_A_SAMPLE[categories][tempered]
