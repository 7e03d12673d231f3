"""Faults planted in the compiled kernels: each is found, by what the interpreter checks or by the results."""

import re

import pytest
import torch
from ptx import Kind

from reinmax_kernels import ops, triton_kernels

from .execution import executed
from .test_results import operands, random, seed

REFERENCE = ops.OPS["reference"]


def without_barrier(number):
    """An edit that takes the barrier of that number out."""

    def edit(text):
        places = [match.span() for match in re.finditer(r"bar\.sync\s+0;", text)]
        first, last = places[number]
        return text[:first] + text[last:]

    return edit


def unmasked(access):
    """An edit that makes accesses to global memory regardless of the row's end."""

    def edit(text):
        edited = re.sub(rf"@%p\d+ ({access}\.global\.(?:v\d\.)?b\d+)", r"\1", text)
        assert edited != text
        return edited

    return edit


def fused_apart(text):
    """Multiplications and additions that are rounded each for itself."""
    edited = re.sub(
        r"fma\.rn\.f32\s+(%r\d+), (%r\d+), ([%\w]+), ([%\w]+);",
        r"mul.rn.f32 %r_product, \2, \3; add.rn.f32 \1, %r_product, \4;",
        text,
    )
    assert edited != text
    return edited.replace("{\n\t.reg", "{\n\t.reg .b32 %r_product;\n\t.reg", 1)


def kinds(work, **options):
    with executed(check=False, **options) as execution:
        result = work()
    return result, set().union(*(report.kinds for report in execution.reports))


def dense(shape):
    logits = random(shape, torch.float32)
    return lambda: triton_kernels.sample_dense(logits, seed(), None, 0, 0)


def reinmax_gradient(shape):
    logits, g = random(shape, torch.float32), random(shape, torch.float32)
    _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seed(), None, 0, 0)
    return lambda: triton_kernels.reinmax_backward(g, None, logits, index, log_sum_exp, None, None)


@pytest.mark.parametrize(
    ("work", "number"),
    [
        (dense((1, 70)), 0),
        (dense((1, 1100)), 0),
        (dense((1, 1100)), -1),
        (reinmax_gradient((1, 1001)), 0),
        (reinmax_gradient((1, 16385)), -1),  # between what is written of all categories and of the drawn one
    ],
    ids=["short", "medium", "medium, the last", "tile", "long"],
)
def test_a_missing_barrier_is_a_race(work, number):
    assert not kinds(work)[1]
    assert Kind.DATA_RACE in kinds(work, edit=without_barrier(number))[1]


@pytest.mark.parametrize("access", ["ld", "st"])
@pytest.mark.parametrize("work", [dense((1, 1100)), reinmax_gradient((3, 1001))], ids=["dense", "gradient"])
def test_a_missing_mask_leaves_the_row(work, access):
    assert Kind.OUT_OF_BOUNDS in kinds(work, edit=unmasked(access))[1]


def test_multiplying_and_adding_apart_changes_draws():
    logits, arguments, index = operands("case21")
    with executed(edit=fused_apart):
        drawn = triton_kernels.sample(logits, *arguments)
    assert not torch.equal(drawn, index)


def test_a_lane_left_out_of_a_sum_changes_the_gradient():
    work = reinmax_gradient((4, 64))
    sound, _ = kinds(work)
    found, _ = kinds(work, edit=lambda text: re.sub(r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+), 8,", r"\1, 4,", text))
    assert not torch.allclose(found, sound, atol=1e-3)


def test_scratch_that_is_not_written_is_found():
    def work():
        return triton_kernels.sample(random((1, 5000), torch.float32), seed(), None, 0, 0)

    def edit(text):  # the largest logit of a chunk is not stored
        return re.sub(r"@%p\d+ st\.global\.b32 .*;", "", text)

    assert Kind.UNINITIALIZED in kinds(work, edit=edit, processors=132)[1]
