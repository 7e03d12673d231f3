"""Faults planted in the compiled kernels: each is found, by what the interpreter checks or by the results."""

import re

import pytest
import torch
from device_results import IN_PARTS, backward, operands, random, seed
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


def gradient(name, shape):
    logits, g = random(shape, torch.float32), random(shape, torch.float32)
    _, _, index, log_sum_exp = REFERENCE["sample_dense"](logits, seed(), None, 0, 0)
    return lambda: backward(triton_kernels, name, g, None, logits, index, log_sum_exp, None, None)


def reinmax_gradient(shape):
    return gradient("reinmax_backward", shape)


@pytest.mark.parametrize(
    ("work", "number"),
    [
        (dense((1, 1000)), 0),
        (dense((1, 1100)), 0),
        (dense((1, 1100)), -1),
        (reinmax_gradient((1, 1001)), 0),
        (reinmax_gradient((1, 16385)), -2),
    ],
    ids=["short", "dense", "dense, the last", "tile", "long"],
)
def test_a_missing_barrier_is_a_race(work, number):
    assert not kinds(work)[1]
    assert Kind.DATA_RACE in kinds(work, edit=without_barrier(number))[1]


def plan(shape, experts):
    index = torch.randint(-1, experts, shape)
    return lambda: triton_kernels.dispatch_plan(index, experts)


def of(kernel, edit):
    """The edit, of one kernel alone."""
    return lambda text: edit(text) if f".entry {kernel}(" in text else text


@pytest.mark.parametrize(
    ("kernel", "number"), [("count_experts_kernel", 0), ("sum_parts_kernel", 0), ("place_assignments_kernel", -1)]
)
def test_a_missing_barrier_of_the_plan_is_a_race(kernel, number):
    """Experts are counted that another thread sets to zero; sums read after they replaced a count that another thread
    has too; places that another thread has moved on.
    """
    work = plan((2, 70), 3)
    assert not kinds(work)[1]
    assert Kind.DATA_RACE in kinds(work, edit=of(kernel, without_barrier(number)))[1]


@pytest.mark.parametrize(
    ("kernel", "pattern", "replacement"),
    [
        ("count_experts_kernel", r"@%p\d+ ((?:atom|red)\.)", r"\1"),  # counts behind the list's end
        ("count_experts_kernel", r"min\.s64", "max.s64"),  # and beside the experts
        ("place_assignments_kernel", r"min\.s64", "max.s64"),
        ("place_assignments_kernel", r"@%p\d+ (st\.global)", r"\1"),
    ],
)
def test_a_missing_bound_of_the_plan_is_found(kernel, pattern, replacement):
    work = plan((70,), 3)
    sound, _ = kinds(work)

    def edit(text):
        edited = re.sub(pattern, replacement, text)
        assert edited != text
        return edited

    found, issues = kinds(work, edit=of(kernel, edit))
    assert Kind.OUT_OF_BOUNDS in issues or not all(map(torch.equal, sound, found))


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


GAPPED = {  # one instruction taken for another
    "a gap on the other side": ("min.f32", "max.f32"),
    "a logit that is not the largest": ("max.f32", "min.f32"),
}


@pytest.mark.parametrize(("shape", "processors"), [((4, 64), None), ((1, 16385), None), ((1, 16385), IN_PARTS)])
@pytest.mark.parametrize("fault", GAPPED)
def test_wrong_weights_change_the_gradient(fault, shape, processors):
    work = gradient("gapped_straight_through_backward", shape)
    sound, _ = kinds(work, processors=processors)
    found, _ = kinds(work, processors=processors, edit=lambda text: text.replace(*GAPPED[fault]))
    assert not torch.allclose(found, sound, rtol=0, atol=0.01 * sound.abs().max().item())


NOISY = {  # one number taken for another
    "a multiplier of Philox": (r"(mul\.(?:hi\.u|lo\.s)32\s+%r\d+, %r\d+), -766435501;", r"\1, -766435499;"),
    "the bits of a uniform": (r"shr\.u32(\s+%r\d+, %r\d+), 9;", r"shr.u32\1, 10;"),
    "the weight of the drawn category": (r"selp\.f32(\s+%r\d+), 0f3F800000,", r"selp.f32\1, 0f40000000,"),
}


@pytest.mark.parametrize("shape", [(4, 64), (3, 100), (40, 2), (1, 4101)])
@pytest.mark.parametrize("fault", NOISY)
def test_wrong_noise_changes_the_gradient(fault, shape):
    if shape[1] == 2 and fault not in list(NOISY)[:2]:
        pytest.skip("of two categories the drawn one has no weight of its own")
    work = gradient("gumbel_rao_backward", shape)
    sound, _ = kinds(work)
    found, _ = kinds(work, edit=lambda text: re.sub(*NOISY[fault], text))
    assert not torch.allclose(found, sound, rtol=0, atol=0.01 * sound.abs().max().item())
