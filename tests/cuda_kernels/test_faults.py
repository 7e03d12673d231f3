"""Faults planted in copies of the kernels: each is found, by what the interpreter checks or by the results."""

import pytest
import torch
from device_results import REFERENCE, backward, random, seed
from ptx import Kind

from .execution import executed
from .planting import Fault, Planted

SEED = 2**40 + 3


def draws(shape, *, mask=False, spoilt=False, **options):
    """Index and dense outputs of random logits."""

    def work(device):
        torch.manual_seed(1)
        logits = random(shape, torch.float32)
        if spoilt:
            logits[..., 1] = torch.nan
        allowed = torch.arange(shape[-1]) % 3 != 1 if mask else None
        index = device.sample(logits, seed(SEED), allowed, 3, 7)
        return [index, *device.sample_dense(logits, seed(SEED), allowed, 3, 7)]

    return work, options


def gradient(name, shape, *, tau=None, h=False, swapped=False, **options):
    """Of random logits and gradients."""

    def work(device):
        torch.manual_seed(1)
        logits, g, h_given = (random(shape, torch.float32) for _ in range(3))
        if swapped:
            logits, g, h_given = (each.transpose(0, 1) for each in (logits, g, h_given))
        _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seed(), None, 0, 0)
        given = None if tau is None else torch.tensor(tau, dtype=torch.float64)
        operands = (g, h_given if h else None, logits, index, log_sum_exp, None, given)
        return [backward(device, name, *operands)]

    return work, options


SHORT, MEDIUM, LONG = draws((40, 10)), draws((2, 1000)), draws((4, 2500))
PARTS = draws((1, 40 * 1024), processors=132)
REINMAX, GAPPED, GUMBEL = "reinmax_backward", "gapped_straight_through_backward", "gumbel_rao_backward"
WORKS = {
    "few": draws((300, 4)),
    "an odd number of few": draws((301, 2)),
    "short": SHORT,
    "rounds": draws((80, 256)),
    "medium": MEDIUM,
    "long": LONG,
    "in parts": PARTS,
    "masked": draws((2, 300), mask=True),
    "spoilt": draws((3, 10), spoilt=True),
    "short gradient": gradient(REINMAX, (5, 10), tau=0.5, h=True),
    "gradient in lanes": gradient(REINMAX, (5, 12), tau=0.5, h=True),
    "looped gradient": gradient("straight_through_backward", (1, 16500)),
    "medium gradient": gradient(REINMAX, (1, 1001), tau=0.5, h=True),
    "block gradient": gradient("straight_through_backward", (2, 1024), h=True),
    "gradient in parts": gradient("straight_through_backward", (1, 70000), h=True, processors=132),
    "short with a gap": gradient(GAPPED, (5, 10), tau=0.5, h=True),
    "long with a gap": gradient(GAPPED, (1, 16385), tau=0.5),
    "with a gap in parts": gradient(GAPPED, (1, 70000), h=True, processors=132),
    "noise of two": gradient(GUMBEL, (5, 2)),
    "noise in lanes": gradient(GUMBEL, (5, 10), tau=0.5, h=True),
    "noise in a block": gradient(GUMBEL, (1, 201), tau=0.5),
    "noise of long rows": gradient(GUMBEL, (1, 4101), h=True),
    "noise in parts": gradient(GUMBEL, (1, 8200), processors=132),
    "two loops": gradient(REINMAX, (2, 3, 100), swapped=True),
}
RACE, OUTSIDE, WRONG = Kind.DATA_RACE, Kind.OUT_OF_BOUNDS, None  # what finds them; None: the results
BLOCK, WARP = "__syncthreads();", "__syncwarp();"
FAULTS = {
    # A missing barrier.
    "chunks weighed": ("long", RACE, "sample_long.cuh", f"chunks, lane);\n    {BLOCK}", "chunks, lane);"),
    "chunk told": ("long", RACE, "sample_long.cuh", f"told = chosen;\n    {BLOCK}", "told = chosen;"),
    "segments weighed": ("long", RACE, "sample_long.cuh", f"= own;\n    {BLOCK}", "= own;"),
    "largest of chunks": ("in parts", RACE, "chunks.cuh", "hit = 0;\n  }\n  synchronize();", "hit = 0;\n  }"),
    "sums of chunks": ("in parts", RACE, "chunks.cuh", "= through;\n  synchronize();", "= through;"),
    "uniforms": ("medium", RACE, "sample_medium.cuh", f"rows, thread);\n  {BLOCK}", "rows, thread);"),
    "rows' numbers": ("medium", RACE, "sample_medium.cuh", f"  {BLOCK}\n  numbers.store", "  numbers.store"),
    "stage written": ("short", RACE, "sample_short.cuh", f"{WARP}\n    copy(elements_, to", "copy(elements_, to"),
    "stage read": ("short", RACE, "sample_short.cuh", f"to, lane);\n    {WARP}\n  }}", "to, lane);\n  }"),
    "tile loaded": ("short gradient", RACE, "backward_short.cuh", f"load_state);\n    {BLOCK}", "load_state);"),
    "tile written": ("short gradient", RACE, "backward_short.cuh", f"    {BLOCK}\n    Piece", "    Piece"),
    "reduction begun": ("block gradient", RACE, "block.cuh", f"    {BLOCK}  // the results", "  // the results"),
    "reduction": ("medium gradient", RACE, "block.cuh", f"    {BLOCK}\n#pragma", "#pragma"),
    # The end of a row.
    "tail of a chunk": ("long", OUTSIDE, "warp_chunk.cuh", "j < count_)", "j <= count_)"),
    "tail of a gradient": ("medium gradient", OUTSIDE, "backward_medium.cuh", "access < acc", "access <= acc"),
    "access in vain": ("medium gradient", WRONG, "backward_medium.cuh", ">= accesses.wide", "> accesses.wide"),
    "access of a lane": ("gradient in lanes", OUTSIDE, "backward_lanes.cuh", "min(j, categories - kWidth)", "j"),
    "row of lanes": ("gradient in lanes", OUTSIDE, "backward_lanes.cuh", "min(own, rows - 1)", "own"),
    "two accesses": ("looped gradient", OUTSIDE, "backward_long.cuh", "left >= 2 * threads", "left > 0"),
    "second access": ("looped gradient", WRONG, "backward_long.cuh", "a + i * step", "a"),
    "last row": ("an odd number of few", OUTSIDE, "sample_few.cuh", "first + 1 == rows;", "first + 1 > rows;"),
    "last element": ("medium gradient", WRONG, "upstream.cuh", "return j < categories", "return j < categories - 1"),
    # What is read.
    "rows ahead": ("rounds", WRONG, "sample_short.cuh", "load_ahead(start + groups", "load_ahead(start"),
    "mask": ("masked", WRONG, "row.cuh", "allowed[e] ?", "!allowed[e] ?"),
    "NaN dropped": ("spoilt", WRONG, "weights.cuh", "larger_or_nan(a, b)", "fmaxf(a, b)"),
    "outer stride": ("two loops", WRONG, "row.cuh", "row.outer * rows.outer_stride", "row.outer"),
    "inner stride": ("two loops", WRONG, "row.cuh", "row.inner * rows.inner_stride", "row.inner"),
    # The contract.
    "seed's words": ("short", WRONG, "../contract.h", "key0 = key, key1 = key >> 32", "key0 = key >> 32, key1 = key"),
    "row's words": ("short", WRONG, "../contract.h", "({row, row >> 32,", "({row >> 32, row,"),
    "uniform's words": ("short", WRONG, "../contract.h", "| w.w3 << 32", "| w.w1 << 32"),
    "own prefix sum": ("few", WRONG, "sample_few.cuh", "through[e - 1] <=", "through[e] <="),
    "row of a thread": ("an odd number of few", WRONG, "sample_few.cuh", "uint64_t(first + r)", "uint64_t(first)"),
    "lane left out": ("medium", WRONG, "weights.cuh", "distance = 1; distance", "distance = 2; distance"),
    # Sums and formulas.
    "lane of a sum": ("short gradient", WRONG, "row.cuh", "distance > 0;", "distance > 1;"),
    "sums of parts": ("gradient in parts", WRONG, "backward_long.cuh", "sums.pi_h = from[size]", "sums.pi_h = from[0]"),
    "largest of parts": (
        "with a gap in parts",
        WRONG,
        "backward_long.cuh",
        "row, k));\n    }\n    sums.lar",
        "row, 0));\n    }\n    sums.lar",
    ),
    "gap": ("long with a gap", WRONG, "row_sums.cuh", "smaller(x - largest, lowered)", "x - largest"),
    "drawn one in the sum": ("short with a gap", WRONG, "row_sums.cuh", "p += missing;", ""),
    "drawn one in the product": (
        "short with a gap",
        WRONG,
        "row_sums.cuh",
        "missing, drawn.g[0], p_g",
        "missing, 0, p_g",
    ),
    "drawn one in parts": ("with a gap in parts", WRONG, "backward_long.cuh", "kGapped && part == 0 &&", "kGapped &&"),
    "drawn one": ("long with a gap", WRONG, "row_sums.cuh", "j + e == drawn) p", "j + e != j + e) p"),
    # Noise.
    "variates read": ("noise in a block", RACE, "gumbel_rao_held.cuh", "threads.synchronize();  // all", "// all"),
    "variates ahead": (
        "noise in a block",
        RACE,
        "gumbel_rao_held.cuh",
        "threads.synchronize();\n    const",
        "const",
    ),
    "samples ahead": ("noise of long rows", RACE, "gumbel_rao_long.cuh", f"    {BLOCK}\n#pragma", "#pragma"),
    "tail of noise": ("noise in lanes", OUTSIDE, "gumbel_row.cuh", "(j + e, j + e <", "(j + e, j + e <="),
    "uniform": ("noise in lanes", WRONG, "noise.cuh", "word >> 9", "word >> 10"),
    "uniform's place": ("noise of two", WRONG, "noise.cuh", "0x1p-24f", "0x1p-23f"),
    "noise's row": ("noise of two", WRONG, "noise.cuh", "uint64_t(row - seed", "0 * uint64_t(row - seed"),
    "noise's offset": ("noise of two", WRONG, "../contract.h", "splitmix64(offset + 1)", "splitmix64(offset)"),
    "noise's sample": ("noise in a block", WRONG, "noise.cuh", "words(unsigned(j + e) / 4, sample)", "words(j / 4, 0)"),
    "drawn one's weight": ("noise in a block", WRONG, "gumbel_row.cuh", "if (j + e == drawn)", "if (false)"),
    "sample of a thread": ("noise in lanes", WRONG, "gumbel_rao_held.cuh", "round + threads.sample()", "round"),
    "no sample": ("noise in lanes", WRONG, "gumbel_rao_held.cuh", "i < count ?", "true ?"),
    "no sample of two": ("noise of two", WRONG, "gumbel_rao_two.cuh", "4 * first + s < samples", "true"),
    "samples of a row": ("noise in lanes", WRONG, "gumbel_samples.cuh", "distance < threads() * samples()", "false"),
    "centre of h": ("noise of long rows", WRONG, "gumbel_row.cuh", "at.h[e] - pi_h", "at.h[e]"),
    "sums of samples": (
        "noise in parts",
        WRONG,
        "gumbel_rao_long.cuh",
        "part < sums.parts; ++part) sum",
        "part < 1; ++part) sum",
    ),
    "sign": ("short gradient", WRONG, "reinmax.cu", "Real(-0.5), at.g", "Real(0.5), at.g"),
}


def run(build_for, name, edit, check):
    work, options = WORKS[name]
    with executed(build_for(90), edit=edit, check=check, **options) as device:
        results = work(device)
    return results, set().union(*(report.kinds for report in device.reports))


@pytest.fixture(scope="module")
def sound(build_for, tmp_path_factory):
    """What copies of the kernels without a fault give, by the same way; nothing is wrong with them."""
    planted = Planted(build_for(90), tmp_path_factory.mktemp("sound"), [])
    results = {}

    def of(name):
        if name not in results:
            results[name], _ = run(build_for, name, planted, check=True)
        return results[name]

    return of


@pytest.mark.parametrize("name", WORKS)
def test_without_a_fault_copies_give_what_the_kernels_give(build_for, sound, name):
    results, _ = run(build_for, name, lambda _, text: text, check=True)
    for found, expected in zip(results, sound(name), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(build_for, sound, tmp_path, fault):
    name, kind, file, text, instead = FAULTS[fault]
    planted = Planted(build_for(90), tmp_path, [Fault(f"cuda/{file}", text, instead)])
    results, kinds = run(build_for, name, planted, check=False)
    if kind is not None:
        assert kind in kinds
    else:
        assert any(not torch.equal(found, right) for found, right in zip(results, sound(name), strict=True))
