"""Draws of the compiled Triton kernels at both ends of intervals, and faults in the roundings that they depend on."""

import functools
import re

import pytest
import torch
from device_boundaries import COEFFICIENTS, STEPS, DrawsAtBoundaries, assert_a_draw_is_wrong


class TestTriton(DrawsAtBoundaries):
    pass


def rounded_twice(step):
    """An edit that rounds the product of a step of Horner's rule before it adds."""
    addend = f"0f{COEFFICIENTS[step].view(torch.int32).item():08X}"
    return functools.partial(
        re.sub,
        rf"fma\.rn\.f32(\s+%r\d+), (\S+), (\S+), {addend};",
        rf"mul.rn.f32\1, \2, \3; add.rn.f32\1,\1, {addend};",
    )


def integers_rounded(mode):
    """An edit that rounds weights to integers in another mode: by 1.5 * 2**23, which is added to them."""
    return functools.partial(re.sub, r"add\.rn(\.f32\s+%r\d+, %r\d+, 0f4B400000;)", rf"add.{mode}\1")


def chunk_weights_contracted(text):
    """The text with the weights of chunks rounded once: as the product is added to 1.5 * 2**52, and not before."""
    factors = dict(re.findall(r"mul\.rn\.f64\s+(%rd\d+), (%rd\d+, %rd\d+);", text))
    return re.sub(
        r"add\.rn\.f64(\s+%rd\d+), (%rd\d+), (0d4338000000000000;)",
        lambda match: f"fma.rn.f64{match[1]}, {factors[match[2]]}, {match[3]}",
        text,
    )


FAULTS = {
    **{f"step {step} rounds twice": rounded_twice(step) for step in STEPS},
    "integers rounded down": integers_rounded("rm"),
    "integers rounded up": integers_rounded("rp"),
}
OF_CHUNKS = {"step 6 rounds twice": rounded_twice(6), "chunk weights contracted": chunk_weights_contracted}


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        *(("short", fault) for fault in FAULTS),
        *((kernel, fault) for kernel in ("long", "dense") for fault in OF_CHUNKS),
    ],
)
def test_a_wrong_rounding_changes_draws_at_boundaries(executed, kernel, fault, monkeypatch):
    assert_a_draw_is_wrong(executed, kernel, monkeypatch, edit=(FAULTS | OF_CHUNKS)[fault])
