"""Faults planted in copies of the kernels: each is found, by what the interpreter checks or by the results."""

import pytest
import torch
from device_results import REFERENCE, backward, random, seed
from ptx import Kind

from reinmax_kernels import router_ops

from .execution import executed
from .planting import Fault, Planted

SEED = 2**40 + 3
ROUTERS = router_ops.OPS["reference"]


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


def gradient(name, shape, *, tau=None, h=False, swapped=False, spoilt=False, **options):
    """Of random logits and gradients."""

    def work(device):
        torch.manual_seed(1)
        logits, g, h_given = (random(shape, torch.float32) for _ in range(3))
        if swapped:
            logits, g, h_given = (each.transpose(0, 1) for each in (logits, g, h_given))
        _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seed(), None, 0, 0)
        if spoilt:
            logits[1] = log_sum_exp[1] = torch.nan
        given = None if tau is None else torch.tensor(tau, dtype=torch.float64)
        operands = (g, h_given if h else None, logits, index, log_sum_exp, None, given)
        return [backward(device, name, *operands)]

    return work, options


def of_experts(shape, dtype):
    """Logits of which some are equal, and some of these the largest of their row."""
    torch.manual_seed(1)
    return random(shape, dtype).mul_(4).round_().div_(4)


def mixed(shape, dtype=torch.float32, *, training=True, **options):
    """What SparseMixer gives for two experts of each row."""

    def work(device):
        stream = (seed(SEED), None, 3, 7) if training else (None, None, 0, 0)
        return list(device.sparse_mixer(of_experts(shape, dtype), *stream, 2, 2, 0.3))

    return work, options


def gradient_of_mixed(shape):
    def work(device):
        logits = of_experts(shape, torch.float32)
        index, _, log_sum_exp = ROUTERS["sparse_mixer"](logits, seed(SEED), None, 3, 7, 2, 2, 0.3)
        g = random((shape[0], 2), torch.float32)
        return [device.sparse_mixer_backward(g, logits, index, log_sum_exp, None, 0.3, 2.0)]

    return work, {}


def best(shape, k):
    def work(device):
        logits = of_experts(shape, torch.float32)
        logits[0] = torch.tensor([0.0, -0.0]).repeat(shape[-1])[: shape[-1]]
        return list(device.topk_router(logits, k, False, True))

    return work, {}


def gradient_of_best(shape, k, *, normalize=True):
    def work(device):
        logits = of_experts(shape, torch.float32)
        index, _ = ROUTERS["topk_router"](logits, k, False, normalize)
        return [device.topk_router_backward(random((shape[0], k), torch.float32), logits, index, False, normalize)]

    return work, {}


def planned(shape, experts, **options):
    """Of lists in which some are assigned to no expert."""

    def work(device):
        torch.manual_seed(1)
        return list(device.dispatch_plan(torch.randint(-1, experts + 1, shape), experts))

    return work, options


def bits(shape, *, row_offset=6, seeds=(SEED,), logits=None, mask=False):
    """Bits and probabilities."""

    def work(device):
        torch.manual_seed(1)
        x = random(shape, torch.float32) if logits is None else logits()
        allowed = torch.arange(x.shape[-1]) % 3 != 1 if mask else None
        return [*device.bernoulli(x, seed(*seeds), allowed, 2**33, row_offset)]

    return work, {}


def gradient_of_bits(estimator, shape, *, tau=0.5, seeds=(SEED,)):
    def work(device):
        torch.manual_seed(1)
        logits, g, h = (random(shape, torch.float32) for _ in range(3))
        logits[1], g[1] = torch.inf, torch.nan
        drawn, given = (torch.rand(shape) < 0.5).float(), torch.tensor(tau, dtype=torch.float64)
        own = (seed(*seeds), 2**33, 2**32 - 9) if estimator == "gumbel_softmax" else ()
        return [getattr(device, f"bernoulli_{estimator}_backward")(g, h, logits, drawn, None, given, *own)]

    return work, {}


def gradient_of_codebook(rows, codes, d, *, spoilt=False):
    """Of codes of which the first has many rows, and of the others some have none."""

    def work(device):
        torch.manual_seed(1)
        index = torch.randint(codes - 1, (rows,))
        index[torch.rand(rows) < 0.3] = codes if spoilt else 0
        return [device.codebook_gradient(random((rows, d), torch.float64), index, codes)]

    return work, {}


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
    "noise in a block": gradient(GUMBEL, (1, 1004), tau=0.5),
    "noise of long rows": gradient(GUMBEL, (1, 4101), h=True),
    "noise of rows that are kept": gradient(GUMBEL, (4, 4104), tau=0.5, h=True),
    "noise of rows that have no distribution": gradient(GUMBEL, (3, 10), tau=0.5, spoilt=True),
    "noise in parts": gradient(GUMBEL, (1, 8200), processors=132),
    "two loops": gradient(REINMAX, (2, 3, 100), swapped=True),
    "mixed in rounds": mixed((80, 65)),
    "mixed": mixed((40, 8)),
    "mixed long": mixed((4, 300)),
    "mixed in float64": mixed((8, 10), torch.float64),
    "unmixed": mixed((20, 12), training=False),
    "gradient of mixed": gradient_of_mixed((40, 10)),
    "best": best((20, 10), 4),
    "best long": best((2, 300), 3),
    "best in rounds": best((80, 300), 2),
    "gradient of best": gradient_of_best((20, 10), 4),
    "gradient of the best of all": gradient_of_best((4, 300), 3, normalize=False),
    "plan": planned((2, 410), 100),  # four rounds to a part
    "plan in parts": planned((1, 6000), 6, processors=132),  # several rounds to sum their counts
    "bits": bits((301,)),
    "bits from an odd number on": bits((301,), row_offset=7),
    "bits of groups": bits((30,), seeds=range(10)),
    "masked bits": bits((3, 70), mask=True),
    "strided bits": bits((), logits=lambda: torch.randn(14, 10)[:, :6:2]),  # two loops
    "no bits": bits((), logits=lambda: torch.tensor([0.5, torch.nan, 1.0] * 4)),
    "gradient of bits": gradient_of_bits("reinmax", (301,)),
    "noisy gradient of bits": gradient_of_bits("gumbel_softmax", (301,)),
    "noisy gradient of groups": gradient_of_bits("gumbel_softmax", (30,), seeds=range(10)),
    "gradient of a codebook": gradient_of_codebook(300, 9, 3),
    "merged gradient of a codebook": gradient_of_codebook(1100, 300, 2),
    "gradient of a codebook and of no code": gradient_of_codebook(300, 9, 3, spoilt=True),
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
    "stage written": ("short", RACE, "short_rows.cuh", f"{WARP}\n    copy(elements_, to", "copy(elements_, to"),
    "stage read": ("short", RACE, "short_rows.cuh", f"to, lane);\n    {WARP}\n  }}", "to, lane);\n  }"),
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
    "neighbours' accesses": ("rounds", WRONG, "sample_short.cuh", "odd ? first : second", "odd ? second : first"),
    "own prefix sum": ("few", WRONG, "sample_few.cuh", "through[e - 1] <=", "through[e] <="),
    "row of a thread": ("an odd number of few", WRONG, "sample_few.cuh", "uint64_t(first + r)", "uint64_t(first)"),
    "lane left out": ("medium", WRONG, "weights.cuh", "distance = 1; distance", "distance = 2; distance"),
    # Routers.
    "uniforms of experts": (
        "mixed long",
        RACE,
        "sparse_mixer.cu",
        f"threadIdx.x % 32);\n  {WARP}",
        "threadIdx.x % 32);",
    ),
    "stage of experts": (
        "mixed in rounds",
        RACE,
        "sparse_mixer.cu",
        f"{WARP}  // the stage has been read, and the numbers are kept",
        "",
    ),
    "chosen experts": ("best", RACE, "topk_router.cu", f"    {WARP}\n#pragma unroll 1", "#pragma unroll 1"),
    "chosen experts read": ("best in rounds", RACE, "topk_router.cu", f"{WARP}  // the stage has been read, and", "//"),
    "written before": (
        "gradient of best",
        RACE,
        "topk_router.cu",
        f"    {WARP}\n    const Real common",
        "const Real common",
    ),
    "tail of experts": ("mixed long", OUTSIDE, "experts.cuh", "return j < end_", "return j <= end_"),
    "how far behind": ("mixed", WRONG, "sparse_mixer.cu", "larger(fabs(x), largest)", "largest"),
    "limit in float64": ("mixed in float64", WRONG, "sparse_mixer.cu", "> limit ?", "> 2 * limit ?"),
    "number of a draw": ("mixed", WRONG, "sparse_mixer.cu", "uint64_t(number) << 56", "uint64_t(number) << 55"),
    "factor's uniform": ("mixed", WRONG, "sparse_mixer.cu", "draw(kMostDraws + d).chunk", "draw(d).chunk"),
    "same expert twice": ("mixed", WRONG, "sparse_mixer.cu", "experts.take(taken = index);", ""),
    "same expert twice, long": ("mixed long", WRONG, "sparse_mixer.cu", "j + e == taken ?", "false ?"),
    "segment of an expert": ("mixed long", WRONG, "sparse_mixer.cu", "round.lane == a / kOfSegment", "round.lane == 0"),
    "best among equals": ("unmixed", WRONG, "experts.cuh", "if (x[e] > own)", "if (x[e] >= own)"),
    "best of another thread": ("unmixed", WRONG, "experts.cuh", "min(a, b); });", "max(a, b); });"),
    "first expert left": (
        "gradient of mixed",
        WRONG,
        "sparse_mixer.cu",
        "j == first.drawn ? -infinity<Real>() : x",
        "x",
    ),
    "largest without the first": ("gradient of mixed", WRONG, "experts.cuh", "position(a) + e == expert ?", "false ?"),
    "zeros in order": ("best", WRONG, "topk_router.cu", "x == 0 ? Real(0) : x", "x"),
    "equals in order": ("best long", WRONG, "topk_router.cu", "return min(a, b); }", "return max(a, b); }"),
    "taken experts": ("best long", WRONG, "topk_router.cu", "taken_ |= 1u << element_;", ""),
    "taken keys": ("best", WRONG, "topk_router.cu", "i == element ? Order::kTaken : keys_[i]", "keys_[i]"),
    "first of equal keys": ("best", WRONG, "topk_router.cu", "i = kElements - 1; i >= 0; --i", "i = 0; i < 8; ++i"),
    "thread of equal keys": ("best", WRONG, "topk_router.cu", "__ffs(int(having)) - 1 != round.rank", "best_ != key"),
    "sum over the chosen": ("gradient of best", WRONG, "topk_router.cu", "(arrived(s) - common)", "arrived(s)"),
    "sum over all": ("gradient of the best of all", WRONG, "topk_router.cu", "(total * total)", "total"),
    "experts set to zero": (
        "plan",
        RACE,
        "dispatch_plan.cu",
        f"{WARP}\n  for (int64_t start = part",
        "for (int64_t start = part",
    ),
    "counts of warps": ("plan in parts", RACE, "dispatch_plan.cu", f"{BLOCK}", ""),
    "places stored": ("plan", RACE, "dispatch_plan.cu", f"{WARP}  // lanes go on", "// lanes go on"),
    "places read": ("plan", RACE, "dispatch_plan.cu", f"{WARP}  // and store", "// and store"),
    "no expert": (
        "plan",
        WRONG,
        "dispatch_plan.cuh",
        "uint64_t(e) < uint64_t(arguments.experts)",
        "e < arguments.experts",
    ),
    "more than an expert": (
        "plan",
        WRONG,
        "dispatch_plan.cuh",
        "uint64_t(e) < uint64_t(arguments.experts) ? e : arguments.experts",
        "e",
    ),
    "end of a part": ("plan", WRONG, "dispatch_plan.cuh", "if (at >= end)", "if (at > end)"),
    "parts before": ("plan in parts", WRONG, "dispatch_plan.cu", "before += of_warps", "before = of_warps"),
    "parts of a warp": ("plan in parts", WRONG, "dispatch_plan.cu", "32 - kPlanExperts + column", "column"),
    "experts before": ("plan", WRONG, "dispatch_plan.cu", "first + sum - count", "sum - count"),
    "lanes before": ("plan", WRONG, "dispatch_plan.cu", "(1u << lane) - 1", "(2u << lane) - 1"),
    "next of an expert": ("plan", WRONG, "dispatch_plan.cu", "= place + 1;", "= place;"),
    # A codebook's gradient.
    "keys of other warps": (
        "gradient of a codebook",
        RACE,
        "codebook_gradient.cu",
        "distance > 32 || (distance == 1 && size >= 64)",
        "distance > 32",
    ),
    "keys of a warp": ("gradient of a codebook", RACE, "codebook_gradient.cu", WARP, ""),
    "sums of all warps": (
        "gradient of a codebook",
        RACE,
        "codebook_gradient.cu",
        f"{BLOCK}\n  if (warp > 0",
        "if (warp > 0",
    ),
    "end of a run": (
        "merged gradient of a codebook",
        OUTSIDE,
        "codebook_gradient.cu",
        "below[a] + step <= length[a] ?",
        "true ?",
    ),
    "keys below": ("merged gradient of a codebook", WRONG, "codebook_gradient.cu", "other[a] < key ? step : 0", "0"),
    "code from the piece before": (
        "gradient of a codebook",
        WRONG,
        "codebook_gradient.cu",
        "code != before && ends",
        "ends",
    ),
    "code in the next piece": (
        "gradient of a codebook",
        WRONG,
        "codebook_gradient.cu",
        "code != before && ends >> (round + a) & 1",
        "code != before",
    ),
    "pieces of a warp": ("gradient of a codebook", WRONG, "codebook_gradient.cu", "own.piece + 32 * warp", "own.piece"),
    "codes without rows": ("gradient of a codebook", WRONG, "codebook_gradient.cu", "i < bytes / 16", "i < 0"),
    "no code": (
        "gradient of a codebook and of no code",
        OUTSIDE,
        "codebook_gradient.cuh",
        "code >= arguments.codes",
        "false",
    ),
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
    "what is made once": (
        "noise in a block",
        RACE,
        "gumbel_samples.cuh",
        f"made = make();\n    {BLOCK}",
        "made = make();",
    ),
    "drawn one's variate": ("noise in a block", RACE, "gumbel_samples.cuh", f"found = x;\n    {BLOCK}", "found = x;"),
    "samples ahead": ("noise of long rows", RACE, "gumbel_rao_long.cuh", f"    {BLOCK}\n#pragma", "#pragma"),
    "tail of noise": ("noise in lanes", OUTSIDE, "gumbel_row.cuh", "(j + e, j + e <", "(j + e, j + e <="),
    "uniform": ("noise in lanes", WRONG, "noise.cuh", "word >> 9", "word >> 10"),
    "uniform's place": ("noise of two", WRONG, "noise.cuh", "0x1p-24f", "0x1p-23f"),
    "noise's row": ("noise of two", WRONG, "noise.cuh", "uint64_t(row - seed", "0 * uint64_t(row - seed"),
    "noise's offset": ("noise of two", WRONG, "../contract.h", "splitmix64(seed ^ mixed)", "splitmix64(seed)"),
    "noise's sample": ("noise in a block", WRONG, "noise.cuh", "words(unsigned(j + e) / 4, sample)", "words(j / 4, 0)"),
    "drawn one's weight": ("noise in a block", WRONG, "gumbel_row.cuh", "if (j + e == drawn)", "if (false)"),
    "drawn one of a thread": ("noise in lanes", WRONG, "gumbel_row.cuh", "drawn & bit ?", "bit == 2 ?"),
    "thread of the drawn one": ("noise in lanes", WRONG, "gumbel_row.cuh", "unsigned(within_loop(drawn)) / kHeld", "0"),
    "sample of a thread": ("noise in lanes", WRONG, "gumbel_rao_held.cuh", "left + threads.sample()", "left"),
    "no sample": ("noise in lanes", WRONG, "gumbel_rao_held.cuh", "unsigned(threads.sample()) < left ?", "true ?"),
    "no distribution": (
        "noise of rows that have no distribution",
        WRONG,
        "gumbel_row.cuh",
        "held.total.fill(softmax.nan_if_invalid())",
        "held.total.fill(0)",
    ),
    "second access of a thread": (
        "noise in a block",
        WRONG,
        "gumbel_row.cuh",
        "first = j + a * kAccess;",
        "first = j;",
    ),
    "logarithm": ("noise in lanes", WRONG, "noise.cuh", "q, f, 0.33333325386047363f", "q, f, 0.3333f"),
    "kept by others": (
        "noise of rows that are kept",
        RACE,
        "gumbel_rao_kept.cuh",
        "kAccesses + a) * threads_] = bits[a]",
        "kAccesses + a) * 32] = bits[a]",
    ),
    "kept beyond the end": (
        "noise of rows that are kept",
        OUTSIDE,
        "gumbel_rao_kept.cuh",
        "static_cast<Bits*>(memory) + threadIdx.x",
        "static_cast<Bits*>(memory) + threadIdx.x + 1",
    ),
    "kept totals": ("noise of rows that are kept", WRONG, "gumbel_rao_kept.cuh", "if (sample > 0) held", "if (0) held"),
    "weights and totals": (
        "noise of rows that are kept",
        WRONG,
        "gumbel_rao_kept.cuh",
        "memory + kept.shares() * Row::kHeld",
        "memory",
    ),
    "first of several samples": ("noise of rows that are kept", WRONG, "gumbel_rao_kept.cuh", " && sample == 0)", ")"),
    "categories of a step": (
        "noise of rows that are kept",
        WRONG,
        "gumbel_rao_kept.cuh",
        "(step * kept.threads() +",
        "(0 * kept.threads() +",
    ),
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
    # Bits.
    "seed's words of bits": ("bits", WRONG, "../contract.h", "key0 = key, key1 = key >> 32", "key0 = key, key1 = key"),
    "odd bit's uniform": ("bits", WRONG, "bernoulli.cuh", "u[e + 1] = pair.element", "u[e + 1] = pair.chunk"),
    "pair's number": ("bits", WRONG, "bernoulli.cuh", "unsigned(e)) >> 1", "unsigned(e))"),
    "bit's uniform": ("bits from an odd number on", WRONG, "bernoulli.cuh", "number % 2 ? pair.el", "0 ? pair.el"),
    "parity of the first": ("bits from an odd number on", WRONG, "bernoulli.cuh", "place.number % 2 == 0 &&", ""),
    "end of a group": ("bits of groups", WRONG, "bernoulli.cuh", "== 0 && place.left >= kWidth", "== 0"),
    "end of a group's noise": ("noisy gradient of groups", WRONG, "bernoulli.cuh", "(place.left >= kWidth)", "(true)"),
    "access at the end": ("bits", OUTSIDE, "bernoulli.cuh", "here == kWidth) return load", "here > 0) return load"),
    "tail that is read": (
        "bits",
        OUTSIDE,
        "bernoulli.cuh",
        "(e >= here) continue;\n      const Row",
        "(e > here) continue;\n      const Row",
    ),
    "tail that is written": ("bits", OUTSIDE, "bernoulli.cuh", "if (e < here) out", "if (e <= here) out"),
    "mask of bits": ("masked bits", WRONG, "bernoulli.cuh", "allowed[e] ?", "!allowed[e] ?"),
    "outer stride of bits": ("strided bits", WRONG, "bernoulli.cuh", "at.outer * from.outer_stride", "at.outer"),
    "inner stride of bits": ("strided bits", WRONG, "bernoulli.cuh", "at.inner * from.inner_stride", "at.inner"),
    "adjacent": ("strided bits", WRONG, "bernoulli.cuh", "from.adjacent && here", "here"),
    "weights of bits": ("bits", WRONG, "bernoulli.cu", "uniform, unlikely + kLikely", "uniform, kLikely"),
    "no bit": ("no bits", WRONG, "bernoulli.cu", "is_invalid(x[e]) ?", "false ?"),
    "bit that was drawn": ("gradient of bits", WRONG, "bernoulli_backward.cu", "? -logit : logit", "? logit : logit"),
    "certain bit": ("gradient of bits", WRONG, "bernoulli_backward.cu", "(is_certain ? 0 : g[e])", "g[e]"),
    "tempered other": ("gradient of bits", WRONG, "bernoulli_backward.cu", "(Real(2) - o)", "(Real(1) - o)"),
    "number of a bit's noise": ("noisy gradient of bits", WRONG, "bernoulli.cuh", "of_first.behind(e)", "of_first"),
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
        pairs = zip(results, sound(name), strict=True)
        assert not all(torch.allclose(found, right, rtol=0, atol=0, equal_nan=True) for found, right in pairs)
