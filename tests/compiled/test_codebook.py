"""The results of the codebook lookups' compiled Triton kernels, what they move, and faults that are planted in them."""

import re

import device_codebook
import pytest
import torch
from device_results import random, seed
from ptx import Kind

from bench.static import traffic
from bench.static.specimens import Specimen

from .execution import executed as run

ROWS, CODES, D = 64, 200, 32


class TestLookup(device_codebook.CodebookLookup):
    pass


class TestBackward(device_codebook.CodebookBackward):
    pass


class TestGradient(device_codebook.CodebookGradient):
    pass


def operands(dtype=torch.bfloat16, rows=ROWS, codes=CODES):
    """Of a backward: gradients of vectors, codebook, logits, index, log-sum-exp, mask and tau."""
    logits, codebook, v = random((rows, codes), dtype), random((codes, D), dtype), random((rows, D), dtype)
    _, index, log_sum_exp = device_codebook.REFERENCE["codebook_lookup"](logits, codebook, seed(), None, 0, 0)
    return [v, codebook, logits, index, log_sum_exp, None, None]


@pytest.mark.parametrize("tempered", [False, True])
def test_a_backward_reads_logits_and_writes_the_gradient_once_a_pass(tempered):
    given = operands(rows=2 * ROWS)
    if tempered:
        given[-1] = torch.tensor(0.5, dtype=torch.float64)
    v, codebook, logits, *_ = given
    with run(80) as device:
        device.codebook_reinmax_backward(*given)
    passes, tiles = (2 if tempered else 1), 2
    # Each tile of rows goes through the codebook. For the product, and for that with the drawn code's vector beside it.
    vectors = (2 + 2 if tempered else 3 + 2) * v.nbytes
    least = passes * (logits.nbytes + tiles * codebook.nbytes) + vectors
    # Of each launch, index, log-sum-exp, the drawn logit and tau, and partial sums.
    scalars = 256 * tiles * 2 * (8 + 8 + 2 + 8 + (5 * 4 if tempered else 4))
    assert least <= sum(report.global_loads.bytes for report in device.reports) <= 1.02 * least + scalars
    sums, gradient = (report.global_stores.bytes for report in device.reports)
    of_rows = 4 * len(v)
    assert (sums, gradient) == ((4 * of_rows, logits.nbytes) if tempered else (of_rows + logits.nbytes, 2 * len(v)))


def test_a_lookup_reads_an_index_more_than_it_has_to():
    _, codebook, logits, *_ = operands()
    with run() as device:
        vectors, _, _ = device.codebook_lookup(logits, codebook, seed(), None, 0, 0)
    draw, gather = device.reports
    assert draw.global_stores.bytes == ROWS * (8 + 8)
    assert gather.global_stores.bytes == vectors.nbytes
    threads = 128 * len(vectors) * D // (8 * 128)
    assert vectors.nbytes + 8 * ROWS <= gather.global_loads.bytes <= vectors.nbytes + 8 * threads


def test_a_gradient_reads_each_row_once():
    v, index = torch.randn(1000, D), torch.randint(7, (1000,))
    with run() as device:
        device.codebook_gradient(v, index, 7)
    summed, joined = device.reports
    threads = 32 * 8  # each reads of each row a code, the one that follows, and the row's number
    assert v.nbytes <= summed.global_loads.bytes <= v.nbytes + threads * 128 * (4 + 4 + 8) + threads * 4
    assert joined.global_loads.bytes < summed.global_loads.bytes / 4


def without_barrier(text):
    """The text without the last barrier."""
    first, last = list(re.finditer(r"bar\.sync\s+0;", text))[-1].span()
    return text[:first] + text[last:]


def test_without_a_barrier_a_tile_is_a_race():
    given = operands()
    with run(80, edit=without_barrier, check=False) as device:
        device.codebook_reinmax_backward(*given)
    assert Kind.DATA_RACE in device.reports[0].kinds


FAULTS = {  # an op, and what is taken for something else in its kernel
    "a type of the product": ("codebook_reinmax_backward", r"f32\.bf16\.bf16\.f32", "f32.f16.f16.f32"),
    "the dot product at the drawn category": ("codebook_reinmax_backward", r"(shfl\.sync\.bfly.*), 2,", r"\1, 1,"),
    "the sum of a piece": ("codebook_gradient", r"add(\.rn)?\.f64", "sub.rn.f64"),
    "which codes are the same": ("codebook_gradient", r"setp\.ne\.(s32|b32|u32)", r"setp.eq.s32"),
    "a row's offset": ("codebook_lookup", r"mul\.lo\.s64", "add.s64"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_changes_the_results(fault):
    op, pattern, replacement = FAULTS[fault]
    v, codebook, logits, index, *_ = given = operands()
    arguments = {
        "codebook_reinmax_backward": given,
        "codebook_gradient": (v.repeat(4, 1), index.repeat(4) % 3, CODES),
        "codebook_lookup": (logits, codebook, seed(), None, 0, 0),
    }[op]

    are_faulty = []

    def edit(text):
        if op == "codebook_lookup" and "gather_kernel" not in text:
            return text
        edited = re.sub(pattern, replacement, text)
        are_faulty.append(edited != text)
        return edited

    results = []
    for change in (None, edit):
        with run(80, edit=change, check=False) as device:
            found = getattr(device, op)(*arguments)
        results.append(found if isinstance(found, torch.Tensor) else found[0])
    assert any(are_faulty)
    assert not torch.allclose(*results, atol=1e-2, equal_nan=True)


def test_traffic_of_half_types_is_counted():
    """In `bench static`, which interprets the launches of all its paths."""
    found = traffic.of_triton(Specimen("codebook_reinmax_backward", 512, 64, torch.bfloat16))
    assert found.bytes_of_least > 1
    assert found.sectors_of_least > 1
