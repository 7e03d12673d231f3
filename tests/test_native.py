"""The C++ headers and kernels by themselves, on every SIMD level: built here with ninja and pybind11, without torch in
the way. AVX-512's text runs on AVX2 too, each vector in two halves. Under `make sanitize` the same tests run with
AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import ctypes
import functools
import mmap
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import compilation
import numpy as np
import pytest
import torch
from boundaries import counter_for, edges
from torch.utils import cpp_extension

from reinmax_kernels import reference
from reinmax_kernels.reference import contract

ROOT = Path(__file__).resolve().parents[1]
SANITIZE = os.environ.get("REINMAX_KERNELS_SANITIZE") == "1"
LEVELS = ("baseline", "avx2", "avx512", "avx512_in_halves")
SOURCES = [*sorted((ROOT / "csrc/cpu").glob("level*.cpp")), *sorted((ROOT / "tests/native").glob("*.cpp"))]
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
VECTORS = np.load(ROOT / "tests" / "data" / "contract_vectors.npz")
CASES = [name[:-6] for name in VECTORS.files if name.startswith(("case", "group")) and name.endswith("_index")]


@pytest.fixture(scope="session")
def native(tmp_path_factory):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    # GCC notes that 64-byte vectors are passed differently without AVX-512; none is passed between two objects.
    # The sanitizers' code takes three times as long to optimise further.
    flags = ["-std=c++17", "-O1" if SANITIZE else "-O2", "-g", "-ffp-contract=off", "-Wno-psabi"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"] if SANITIZE else []
    return compilation.load(
        name="reinmax_kernels_native_test",
        sources=[str(path) for path in SOURCES],
        extra_include_paths=[str(ROOT / "csrc")],
        extra_cflags=flags + sanitizers,
        extra_ldflags=sanitizers,
        build_directory=str(tmp_path_factory.mktemp("native")),
    )


@pytest.fixture(params=LEVELS)
def level(request, native):
    if request.param not in native.levels():
        pytest.skip(f"this processor has no {request.param}")
    return request.param


# Random123's published known answers for philox4x32-10.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(native, counter, key, answer):
    assert native.philox(counter, key) == answer


def test_multiply_high_is_the_high_half_of_the_product(native):
    generator = np.random.default_rng(0)
    for u, v in generator.integers(0, 2**64 - 1, (1000, 2), dtype=np.uint64).tolist():
        assert native.multiply_high(u, v) == u * v >> 64
    assert native.multiply_high(2**64 - 1, 2**64 - 1) == 2**64 - 2


def test_exp2_is_the_references_bit_for_bit(native):
    t = np.concatenate(
        [-np.logspace(-10, 1.8, 200_001), np.linspace(-64, 0, 200_001), [0.0, -0.0], 0.5 - np.arange(64)]
    )
    # Every float around the tie at -1/2, where the remainder is largest: the last place of the first coefficient shows.
    tie = -np.arange(*np.float32([0.4375, 0.5625]).view(np.int32), dtype=np.int32).view(np.float32)
    t = np.concatenate([t.astype(np.float32), tie])
    t = t[(t >= -64) & (t <= 0)]
    assert np.array_equal(native.exp2(t), contract.exp2(torch.from_numpy(t)).numpy())


def test_log_of_every_uniform_is_within_a_place_and_a_half(native):
    u = ((np.arange(2**23) + 0.5) * 2.0**-23).astype(np.float32)
    truth = np.log(u.astype(np.float64))
    assert (np.abs(native.log(u) - truth) <= 1.5 * np.spacing(np.abs(truth).astype(np.float32))).all()


@pytest.mark.parametrize("case", CASES)
def test_contract_vectors(native, level, case):
    seed, offset, row_offset = (int(v) for v in VECTORS[f"{case}_args"])
    seeds = VECTORS[f"{case}_seeds"].tolist() if case.startswith("group") else [seed]
    logits, expected = VECTORS[f"{case}_logits"], VECTORS[f"{case}_index"]
    for dense in (False, True):
        index, *_, invalid = native.sample(level, "float32", logits, None, seeds, offset, row_offset, dense)
        assert np.array_equal(index, expected)
        assert invalid == -1


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def as_torch(array: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    return torch.from_numpy(array).view(dtype)


# What a backward takes of its own: as the op does, and as the native module does. One sample has a kernel of its own.
OWN = {
    "reinmax": ((), {}),
    "straight_through": ((), {}),
    "gapped_straight_through": ((0.8,), {"gap": 0.8}),
    "gumbel_rao": (
        (torch.arange(67), 2**40, -9, 5),
        {"seeds": list(range(67)), "offset": 2**40, "row_offset": -9, "samples": 5},
    ),
    "gumbel_rao of one": (
        (torch.tensor([-4]), 3, 2**33, 1),
        {"seeds": [-4], "offset": 3, "row_offset": 2**33, "samples": 1},
    ),
}


@functools.lru_cache(maxsize=1)
def reference_case(dtype: str, categories: int):
    """Logits, both gradients and a mask; what the reference draws without and with the mask; and its gradients, by
    estimator, with and without the gradient of the probabilities, and temperature.
    """
    generator = torch.Generator().manual_seed(categories)
    shape = (67, categories)
    logits, g, h = (torch.randn(shape, generator=generator).mul(3).to(DTYPES[dtype]) for _ in range(3))
    logits[::4] = -logits[::4].abs()  # log-probabilities
    mask = torch.rand(shape, generator=generator) < 0.7
    mask[:, categories // 2] = True
    draws = [reference.sample_dense(logits, torch.tensor([5]), allowed, 1, 2) for allowed in (None, mask)]
    gradients = {
        (name, with_h, tau): getattr(reference, f"{name.split()[0]}_backward")(
            g,
            h if with_h else None,
            logits,
            *draws[0][2:],
            None,
            None if tau == 1 else torch.tensor(tau, dtype=torch.float64),
            *OWN[name][0],
        )
        for name in OWN
        for with_h in (False, True)
        for tau in (1.0, 0.7, 0.4)
    }
    return logits, g, h, mask, draws, gradients


@pytest.mark.parametrize("level", LEVELS, indirect=True)  # on top it varies fastest: the levels share a case
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("categories", [1, 2, 3, 7, 31, 32, 33, 63, 64, 65, 130, 1000, 1023, 1024, 1025, 2100, 4500])
def test_kernels_against_the_reference(native, level, dtype, categories):
    logits, g, h, mask, draws, gradients = reference_case(dtype, categories)
    for allowed, expected in zip((None, mask.numpy()), draws, strict=True):
        index, one_hot, probs, log_sum_exp, invalid = native.sample(
            level, dtype, as_numpy(logits), allowed, [5], 1, 2, True
        )
        assert invalid == -1
        assert np.array_equal(index, expected[2].numpy())
        assert torch.equal(as_torch(one_hot, DTYPES[dtype]), expected[0])
        torch.testing.assert_close(as_torch(probs, DTYPES[dtype]), expected[1])
        np.testing.assert_allclose(log_sum_exp, expected[3].numpy(), rtol=0, atol=1e-6)
    index, log_sum_exp = (t.numpy() for t in draws[0][2:])
    for (name, with_h, tau), expected in gradients.items():
        grad_probs = as_numpy(h) if with_h else None
        inputs = as_numpy(g), grad_probs, as_numpy(logits), index, log_sum_exp, tau
        gradient = getattr(native, f"{name.split()[0]}_backward")(level, dtype, *inputs, **OWN[name][1])
        actual = as_torch(gradient, DTYPES[dtype])
        torch.testing.assert_close(actual, expected, **tolerance(DTYPES[dtype], g / tau))


def tolerance(dtype: torch.dtype, gradient: torch.Tensor) -> dict[str, float]:
    """A few roundings of the accumulation type at the incoming gradient's scale, and one of the output's."""
    accumulate = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    return {"rtol": torch.finfo(dtype).eps, "atol": 8 * accumulate * gradient.abs().max().item()}


@pytest.mark.parametrize("categories", [1, 5, 32, 40, 1024, 3000])
@pytest.mark.parametrize(("value", "alone"), [(np.nan, False), (np.inf, False), (-np.inf, True)])
def test_the_first_invalid_row_is_reported_and_disturbs_no_other(native, level, categories, value, alone):
    logits = np.random.default_rng(0).normal(size=(70, categories)).astype(np.float32)
    clean = native.sample(level, "float32", logits, None, [3], 0, 0, True)
    spoilt = logits.copy()
    for row in (11, 69):
        if alone:
            spoilt[row] = value
        else:
            spoilt[row, categories // 2] = value
    result = native.sample(level, "float32", spoilt, None, [3], 0, 0, True)
    assert result[4] == 11
    others = np.delete(np.arange(70), [11, 69])
    for ours, theirs in zip(result[:4], clean[:4], strict=True):
        assert np.array_equal(ours[others], theirs[others])
    assert np.array_equal(result[0][[11, 69]], [0, 0])


@pytest.fixture(scope="module")
def boundary():
    """A row of seed 1 and a float32 logit, such that beside a logit of 0 the target is exactly 2**39, the weight of 0.

    Only uniforms close to 1 leave the other weight small enough for float32 logits to reach nearly every integer.
    """
    _, _, low, high = contract.row_bits(2**20, torch.tensor([1]), 0, 0)
    for row in torch.where(high >= 2**32 - 2**15)[0].tolist():
        uniform = int(high[row]) << 32 | int(low[row])
        q = next(q for q in range(1, 2**24) if uniform * (2**39 + q) >> 64 == 2**39)
        logits = torch.tensor(q / 2**39).log() + torch.arange(-1000, 1000) * 2.0**-20
        weights = (contract.exp2(logits * torch.tensor(contract.LOG2_E)).double() * 2**39).round()
        if (weights == q).any():
            return row, logits[weights == q][0].item()
    raise AssertionError("no such row")


@pytest.mark.parametrize("categories", [2, 40, 1024])
def test_a_target_on_the_boundary_belongs_to_the_next_category(native, level, boundary, categories):
    """The draw is the first prefix sum that exceeds the target, and 2**39 does not exceed 2**39."""
    row, logit = boundary
    x = np.full((1, categories), -np.inf, np.float32)
    x[0, [0, -1]] = 0, logit
    index, *_ = native.sample(level, "float32", x, None, [1], 0, row, False)
    assert index[0] == categories - 1
    assert contract.draw(torch.from_numpy(x), torch.tensor([1]), 0, row)[0] == categories - 1


@pytest.mark.parametrize("categories", [20, 32, 40, 1024])
def test_the_draw_is_exact_where_weights_end_in_a_half(native, level, categories):
    """From 2**22 to 2**23 a float32 weight may lie half-way between two integers."""
    weight = 2**22 + 2 * np.arange(categories - 1) + np.float32(0.5)
    exact = torch.from_numpy(np.log(weight.astype(np.float64) / 2**39)).float()
    x = torch.cat([torch.zeros(1), exact])
    unrounded = contract.exp2(x * torch.tensor(contract.LOG2_E)).double() * 2**39
    assert (unrounded % 1 == 0.5).any()
    for index, uniform in edges(unrounded.round().long().tolist()):
        at = counter_for(0, uniform, seed=9)
        offset, row = (ctypes.c_int64(at[name]).value for name in ("offset", "row_offset"))
        drawn, *_ = native.sample(level, "float32", x[None].numpy(), None, [9], offset, row, False)
        assert drawn[0] == index


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_nan_in_a_chunk_that_is_otherwise_minus_infinity(native, level, chunk):
    x = np.zeros((2, 3 * 1024), np.float32)
    x[:, chunk * 1024 : (chunk + 1) * 1024] = -np.inf
    assert native.sample(level, "float32", x, None, [1], 0, 0, True)[4] == -1
    x[1, chunk * 1024 + 5] = np.nan
    assert native.sample(level, "float32", x, None, [1], 0, 0, True)[4] == 1


def test_a_float64_beyond_float32_makes_its_row_invalid(native, level):
    for value in (1e300, -1e300):
        x = np.zeros((3, 40))
        x[2, 7] = value
        assert native.sample(level, "float64", x, None, [1], 0, 0, True)[4] == 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("categories", [16, 1024])
def test_half_types_are_the_float32_result_rounded_to_nearest_even(native, level, dtype, categories):
    """A million values, so that ties come up."""
    half = DTYPES[dtype]
    x, g = (torch.randn(2**20 // categories, categories).to(half) for _ in range(2))
    narrow = native.sample(level, dtype, as_numpy(x), None, [1], 0, 0, True)
    wide = native.sample(level, "float32", x.float().numpy(), None, [1], 0, 0, True)
    assert torch.equal(as_torch(narrow[2], half), torch.from_numpy(wide[2]).to(half))
    rest = (wide[0], wide[3], 1.0)
    narrow_grad = native.reinmax_backward(level, dtype, as_numpy(g), None, as_numpy(x), *rest)
    wide_grad = native.reinmax_backward(level, "float32", g.float().numpy(), None, x.float().numpy(), *rest)
    assert torch.equal(as_torch(narrow_grad, half), torch.from_numpy(wide_grad).to(half))


# Memory of large outputs.

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is left as the system gives it")


def block_of(size: int, flags: int) -> np.ndarray:
    """Pages from the system, every byte 7."""
    block = np.frombuffer(mmap.mmap(-1, size, flags=flags), np.uint8)
    block[:] = 7
    return block


@linux
@pytest.mark.parametrize(("start", "end"), [(0, 0), (1, 0), (0, 1), (64, 4000), (4095, 4097)])
def test_a_discarded_block_is_zero_and_its_neighbours_are_left_alone(native, start, end):
    memory = block_of(native.fresh_bytes + 2 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block = memory[start : len(memory) - end]
    assert native.zero_by_discarding(block.ctypes.data, block.nbytes)
    assert not block.any()
    assert (memory[:start] == 7).all()
    assert (memory[len(memory) - end :] == 7).all()


@linux
def test_what_can_not_be_discarded_is_said_to_need_writing(native):
    """Shared memory comes back as it was, and a small block would be no fresh one from the system."""
    shared = block_of(native.fresh_bytes, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    assert not native.zero_by_discarding(shared.ctypes.data, shared.nbytes)
    small = block_of(native.fresh_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)[1:]
    assert not native.zero_by_discarding(small.ctypes.data, small.nbytes)
    assert (small == 7).all()


def huge_page_ranges(block: np.ndarray) -> list[tuple[int, int]]:
    """Where in this block the system was advised to give huge pages, as offsets; from /proc/self/smaps."""
    ranges, bounds = [], (0, 0)
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if heading := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            bounds = tuple(int(bound, 16) - block.ctypes.data for bound in heading.groups())
        elif line.startswith("VmFlags:") and "hg" in line.split() and bounds[1] > 0 and bounds[0] < block.nbytes:
            ranges.append(bounds)
    return ranges


@linux
@pytest.mark.skipif(os.environ.get("REINMAX_KERNELS_HUGE_PAGES") == "0", reason="forbidden by the environment")
def test_huge_pages_are_asked_for_inside_the_block_alone(native):
    huge = 2 << 20
    memory = block_of(8 * huge, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    first = -memory.ctypes.data % huge
    block = memory[first + huge - 64 : first + 5 * huge + 64]
    if not Path("/sys/kernel/mm/transparent_hugepage").exists():
        pytest.skip("this kernel has no transparent huge pages")
    native.prefer_huge_pages(block.ctypes.data, 2 * huge - 1)  # too small
    assert huge_page_ranges(memory) == []
    native.prefer_huge_pages(block.ctypes.data, block.nbytes)
    assert huge_page_ranges(memory) == [(first + huge, first + 5 * huge)]


@pytest.mark.skipif(shutil.which("nm") is None, reason="binutils' nm is not installed")
def test_levels_export_no_function_that_another_level_could_be_linked_with(native, tmp_path):
    """An inline function of a library, compiled for AVX-512 and left in the object, could be linked in for a processor
    without it. Every function that a level's object defines must carry the level's name.
    """
    for level in ("avx2", "avx512"):
        target = tmp_path / f"{level}.o"
        torch_includes = [f"-I{path}" for path in cpp_extension.include_paths()]
        flags = ["-std=c++17", "-O3", "-ffp-contract=off", "-fPIC", f"-I{ROOT / 'csrc'}", *torch_includes]
        subprocess.run(["c++", *flags, "-c", str(ROOT / f"csrc/cpu/level_{level}.cpp"), "-o", str(target)], check=True)
        listing = subprocess.run(
            ["nm", "-C", "--defined-only", str(target)], check=True, capture_output=True, text=True
        )
        shared = [
            line for line in listing.stdout.splitlines() if line.split()[1] in "WVu" and f"::{level}::" not in line
        ]
        assert shared == []
        assert f"::{level}::kKernels" in listing.stdout
