"""Gates for the machine code: nothing spilled, half of a multiprocessor's threads resident, accesses of 16 bytes.

Registers are the compiler's affair: other versions spill a few bytes here and there.
"""

import functools
import itertools

import pytest
import torch

from bench.static import TARGETS
from bench.static.code import Figures, figures, row_tensors
from bench.static.launches import AMD, Launch
from bench.static.specimens import PATHS, Specimen, all_specimens
from reinmax_kernels import backends

COMPILER = "3.9"  # Triton's version that the gates are for
if not backends.triton_version.startswith(f"{COMPILER}."):
    pytest.skip(f"gates are for Triton {COMPILER}, not {backends.triton_version}", allow_module_level=True)

LEAST_OCCUPANCY = 0.5
COMPUTING = {  # kernels that make noise, of which each element costs a hundred instructions
    "gumbel_rao_tile_kernel",
    "gumbel_rao_of_two_kernel",
    "gumbel_rao_sums_kernel",
    "gumbel_rao_long_kernel",
}
# AMD's 102 scalar registers don't hold all that these loops over doubles use: constants of logarithms and exponentials,
# arguments. So many lie in lanes of vector registers, which is no memory.
MOST_LANES_OF_SCALARS = {"gumbel_rao_sums_kernel": 40, "gumbel_rao_long_kernel": 32}
# Of what holds tiles of products, a quarter of the threads is resident.
TILED = {"codebook_sums_kernel", "codebook_gradient_kernel"}
NO_ROWS = {"gather_kernel", "sum_pieces_kernel", "join_pieces_kernel"}  # of logits
UNEVEN = [  # rows of whole 16-byte vectors, but not of 16 elements; long rows that begin anywhere
    *(Specimen(path, 8192, 1000) for path in PATHS),
    *(Specimen(path, 8192, 9001, dtype) for path in PATHS for dtype in (torch.float32, torch.bfloat16)),
    *(Specimen("sample_dense", 8192, categories) for categories in (2047, 9002)),
]
LONGEST = [  # one row by itself and others beside it; each program that draws looks through all chunks, up to 8192
    Specimen(path, rows, categories, dtype)
    for path in PATHS
    for rows in (1, 16)
    for categories in ((2**20, 2**22, 2**23) if path.startswith("sample") else (2**22,))  # others by parts, as many
    for dtype in (torch.float32, torch.bfloat16, torch.float64)
]
UNALIGNED = [Specimen("sample_dense", 4, 2**22 + 1, dtype) for dtype in (torch.float32, torch.bfloat16)]
CORE = {
    90: (10, 1000, 32768, 2**22),
    80: (1024,),
    100: (64,),
    120: (4096,),
    AMD: (1024,),
}  # categories; all others are slow


def is_core(specimen, target):
    return specimen.dtype == torch.float32 and specimen.categories in CORE[target] and specimen.rows != 16


def specimens():
    large = [specimen for specimen in [*UNEVEN, *LONGEST, *UNALIGNED] if specimen.is_possible]
    yield from itertools.product([*all_specimens([torch.float32, torch.bfloat16]), *large], TARGETS)
    longest = [Specimen(path, 1, 2**22, torch.float16) for path in PATHS]
    longest = [specimen for specimen in longest if specimen.is_possible]
    yield from itertools.product([*all_specimens([torch.float16, torch.float64]), *longest], [90])


def parameters():
    for specimen, target in specimens():
        marks = [] if is_core(specimen, target) else [pytest.mark.slow]
        yield pytest.param(specimen, target, marks=marks, id=f"{specimen}-{target}")


@functools.cache
def compiled(specimen: Specimen, target: int | str) -> list[tuple[Launch, Figures]]:
    return [(launch, figures(launch, target)) for launch in specimen.launches()]


@pytest.mark.parametrize(("specimen", "target"), [*parameters()])
def test_nothing_is_spilled(specimen, target):
    for launch, found in compiled(specimen, target):
        assert found.spilled_bytes == 0
        is_double = specimen.dtype == torch.float64
        assert found.lanes_of_scalars <= (MOST_LANES_OF_SCALARS.get(launch.name, 0) if is_double else 0)


@pytest.mark.parametrize(("specimen", "target"), [*parameters()])
def test_half_of_the_threads_are_resident(specimen, target):
    """Or fewer, of what computes more than it loads."""
    if target == AMD:
        pytest.skip("occupancy is reckoned for NVIDIA's multiprocessors")
    for launch, found in compiled(specimen, target):
        assert found.occupancy >= launch.resident
        of_computing = launch.name in COMPUTING and specimen.dtype == torch.float64
        assert launch.resident >= LEAST_OCCUPANCY or of_computing or launch.name in TILED


@pytest.mark.parametrize("categories", [2**17 + 1, 2**20 + 1, 2**23])
@pytest.mark.parametrize("path", [path for path in PATHS if PATHS[path].most_categories >= 2**23])
def test_no_program_has_more_threads_than_a_block_can_have(path, categories):
    launches = Specimen(path, 1, categories).launches()
    assert all(launch.warps <= 32 for launch in launches)


def is_aligned(specimen):
    return specimen.categories * specimen.dtype.itemsize % 16 == 0


@pytest.mark.parametrize(("specimen", "target"), [*parameters()])
def test_rows_are_read_and_written_16_bytes_at_a_time(specimen, target):
    """By all instructions, a thread's share of a block of the row moves in wide accesses; narrow ones are few."""
    if target == AMD:
        pytest.skip("widths are read from NVIDIA's machine code")
    if not is_aligned(specimen):
        pytest.skip("rows begin anywhere, not at multiples of 16 bytes")
    if specimen.path == "dispatch_plan":
        pytest.skip("it has no rows of logits")
    for launch, found in compiled(specimen, target):
        if is_for_one_position(launch) or is_for_one_chunk(launch) or launch.name in COMPUTING | NO_ROWS:
            continue
        share = threads_share(launch, specimen)
        if share < 16:  # a thread has less of a row than that
            continue
        assert found.wide_loaded_bytes >= share * len(row_tensors(launch))
        assert found.wide_stored_bytes >= share * written_tensors(launch)
        # Index, log-sum-exp, seed, tau, partial sums; several rows' to a thread, or several chunks' or parts'. Of
        # chosen experts, index and gradient in a loop that the compiler unrolls four times.
        more = 8 if launch.name == "topk_router_backward_kernel" else 6 * (launch.constants.get("GROUP", 1) - 1)
        assert narrow_accesses(found) <= 24 + more


@pytest.mark.parametrize("target", [each for each in TARGETS if each != AMD])
@pytest.mark.parametrize("experts", [10, 1000])
def test_assignments_are_counted_16_bytes_at_a_time(experts, target):
    """And placed one to a lane, of 8 bytes, which are scattered; of counts a thread has two side by side."""
    (count, counted), (_, summed), (_, placed) = compiled(Specimen("dispatch_plan", 2**20, experts), target)
    assert counted.load_bits == {128: count.constants["BLOCK"] // 32 // 2}
    assert counted.store_bits == {128: count.constants["BLOCK"] // 32 // 2}
    assert (summed.load_bits, summed.store_bits) == ({128: 2}, {64: 1, 128: 2})
    assert 64 in placed.load_bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("path", [path for path in PATHS if path.startswith("bernoulli")])
def test_elements_are_read_and_written_16_bytes_at_a_time_whatever_their_number(path, dtype):
    """But for a last program that is not full, in which they are one by one."""
    ((launch, found),) = compiled(Specimen(path, 1, 1_000_003, dtype), 90)
    tensors, each = PATHS[path].reads + PATHS[path].writes, threads_share(launch, Specimen(path, 1, 1, dtype))
    assert each == 16
    assert found.wide_loaded_bytes + found.wide_stored_bytes == each * tensors
    scalars = 3  # seed, tau, and 1 / tau's table
    assert narrow_accesses(found) <= each // dtype.itemsize * tensors + scalars


def is_for_one_position(launch):
    """Whether it writes the gradient of the drawn category alone."""
    if launch.name == "codebook_gradient_kernel":
        return launch.constants["IS_FOR_DRAWN"]
    return launch.name == "backward_long_kernel" and not launch.constants["SUMS"] and launch.grid[-1] == 1


def is_for_one_chunk(launch):
    """Whether it draws an index from the chosen chunk, of which a thread may have a single element."""
    return launch.name == "sample_long_kernel" and not launch.constants["WEIGHS"] and launch.arguments[3].probs is None


def threads_share(launch, specimen):
    """Bytes of one tensor that a thread moves of each block, the least of what a launch reads at a time."""
    block = launch.constants["BLOCK"] * launch.constants.get("ROWS", 1)
    return block // (32 * launch.warps) * specimen.dtype.itemsize


def written_tensors(launch):
    if launch.name in ("sparse_mixer_kernel", "topk_router_kernel"):
        return 0
    if launch.name == "bernoulli_kernel":
        return 2
    if launch.name.startswith("sample"):
        dense = launch.arguments[3].probs is not None and launch.constants.get("DRAWS", True)
        return 2 if dense else 0
    if launch.name == "largest_logit_kernel":
        return 0
    if launch.name == "codebook_sums_kernel":
        return int(launch.constants["AWAY_FROM_DRAWN"] is not None)
    return int(launch.constants.get("WRITES", True) or launch.constants.get("AWAY_FROM_DRAWN") is not None)


# Of an element, with which an H100 stays bound by its memory: 132 multiprocessors of 128 lanes at 1.7 GHz have time for
# 34 instructions while 4 bytes are moved at 3.35 TB/s, for 51 while 6 are, 68 while 8, 102 while 12 and 136 while 16.
@pytest.mark.parametrize(
    ("path", "dtype", "most"),
    [
        ("sample", torch.float32, 34),
        ("sample_dense", torch.bfloat16, 51),
        ("reinmax_backward", torch.bfloat16, 51),
        ("straight_through_backward", torch.bfloat16, 51),
        ("bernoulli", torch.float32, 107),  # counts accesses twice, of programs that are full and of one that is not
        ("bernoulli_reinmax_backward", torch.float32, 136),
        ("bernoulli_reinmax_backward", torch.bfloat16, 68),
        ("bernoulli_straight_through_backward", torch.bfloat16, 51),
    ],
    ids=str,
)
def test_instructions_take_no_longer_than_memory(path, dtype, most):
    specimen = Specimen(path, 8192, 4096, dtype)
    executed = sum(found.executed * launch.threads(90) for launch, found in compiled(specimen, 90))
    assert executed <= most * specimen.elements


@pytest.mark.parametrize("experts", [8, 64, 256])
def test_instructions_of_a_plan_take_no_longer_than_memory(experts):
    """As above: 32 bytes of an assignment are moved, which takes as long as 272 instructions."""
    specimen = Specimen("dispatch_plan", 2**22, experts)
    executed = sum(found.executed * launch.threads(90) for launch, found in compiled(specimen, 90))
    assert executed <= 272 * specimen.elements


def narrow_accesses(found):
    return sum(count for bits in (found.load_bits, found.store_bits) for width, count in bits.items() if width < 128)
