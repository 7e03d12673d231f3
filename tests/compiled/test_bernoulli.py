"""The results of the compiled Triton kernels of bits, and faults that are planted in them."""

import functools
import re

import device_bernoulli
import pytest
import torch
from device_results import random, seed
from ptx import Kind

from .execution import executed as run


class TestDraws(device_bernoulli.Draws):
    pass


class TestGradients(device_bernoulli.Gradients):
    pass


class TestElements(device_bernoulli.Elements):
    pass


class TestOtherTargets(device_bernoulli.OtherTargets):
    pass


FAULTS = {  # an op, what is taken for something else in its kernel, and what finds that; None: the results
    "a multiplier of Philox": ("bernoulli", r"(mul\.(?:hi\.u|lo\.s)32\s.*), -766435501;", r"\1, -766435499;", None),
    "which bit is likelier": ("bernoulli", r"setp\.ge\.f32", "setp.lt.f32", None),
    "the tail that is read": ("bernoulli", r"@%p\d+ (ld\.global\.(?:v\d\.)?b\d+)", r"\1", Kind.OUT_OF_BOUNDS),
    "the tail that is written": ("bernoulli", r"@%p\d+ (st\.global\.(?:v\d\.)?b\d+)", r"\1", Kind.OUT_OF_BOUNDS),
    "the probability of a bit": ("bernoulli_reinmax_backward", "0f([3B])FB8AA3B", r"0f\1F38AA3B", None),
    "the bits of a uniform": (
        "bernoulli_gumbel_softmax_backward",
        r"shr\.u32(\s+%r\d+, %r\d+), 9;",
        r"shr.u32\1, 10;",
        None,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    op, pattern, replacement, kind = FAULTS[fault]
    logits, g, drawn = random(301, torch.float32), random(301, torch.float32), (torch.rand(301) < 0.5).float()
    arguments = (g, g, logits, drawn, None, None, *device_bernoulli.BACKWARDS.get(op, ()))
    if op == "bernoulli":
        arguments = logits, seed(), None, *device_bernoulli.STREAM

    def edit(text):
        edited = re.sub(pattern, replacement, text)
        assert edited != text
        return edited

    results, kinds = [], []
    for planted in (None, edit):
        with run(edit=planted, check=False) as device:
            found = getattr(device, op)(*arguments)
        results.append((found,) if isinstance(found, torch.Tensor) else found)
        kinds.append(set().union(*(report.kinds for report in device.reports)))
    assert not kinds[0]
    if kind is not None:
        assert kind in kinds[1]
    else:
        assert not all(torch.allclose(*pair, atol=1e-3, equal_nan=True) for pair in zip(*results, strict=True))


def test_an_integer_weight_that_is_one_too_large_is_found():
    def edit(text):
        assert "0f4B400000;" in text  # 1.5 * 2**23, to which a weight is added
        return text.replace("0f4B400000;", "0f4B400001;")

    with pytest.raises(AssertionError, match="== "):
        device_bernoulli.Draws().test_the_draw_is_exact_at_every_boundary(functools.partial(run, edit=edit), -0.3, 0)
