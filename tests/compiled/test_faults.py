"""Faults planted in the compiled kernels: each is found, by what the interpreter checks or by the results."""

import re

import pytest
import torch
from device_results import operands, random, seed
from ptx import Kind

from reinmax_kernels import ops, triton_kernels

from .execution import executed

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
        (dense((1, 1000)), 0),
        (dense((1, 1100)), 0),
        (dense((1, 1100)), -1),
        (reinmax_gradient((1, 1001)), 0),
        (reinmax_gradient((1, 16385)), -2),
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


def test_a_lane_left_out_of_a_prefix_sum_changes_draws():
    logits, arguments, index = operands("case10")

    def edit(text):
        edited = re.sub(r"(shfl\.sync\.up\.b32\s+%r\d+(?:\|%p\d+)?, %r\d+), 4,", r"\1, 3,", text)
        assert edited != text
        return edited

    with executed(edit=edit):
        assert not torch.equal(triton_kernels.sample(logits, *arguments), index)


def test_a_lane_left_out_of_a_sum_changes_the_gradient():
    work = reinmax_gradient((4, 64))
    sound, _ = kinds(work)
    found, _ = kinds(work, edit=lambda text: re.sub(r"(shfl\.sync\.bfly\.b32\s+%r\d+, %r\d+), 8,", r"\1, 4,", text))
    assert not torch.allclose(found, sound, atol=1e-3)
