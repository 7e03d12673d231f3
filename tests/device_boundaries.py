"""Draws of kernels for a GPU at both ends of intervals, where a weight that is one unit off changes the index: cases
that all kernels share.

Random draws hardly ever see a wrong rounding. These rows hold weights that depend on one, so that a fault planted in
any of those roundings is found.
"""

import ctypes
import functools
from fractions import Fraction

import pytest
import torch
from boundaries import counter_for, edges
from device_results import seed
from test_contract import weights

from reinmax_kernels.reference import contract

LOG2_E = torch.tensor(contract.LOG2_E)
COEFFICIENTS = torch.tensor(contract.EXP2_COEFFICIENTS)
STEPS = range(1, len(COEFFICIENTS))  # of Horner's rule, a fused multiply-add each
SEED = 9


def exp2_rounding_twice(t, rounded_twice):
    """As `contract.exp2`, but that step of Horner's rule rounds its product before it adds."""
    n = t.round()
    f = (t - n).double()
    value = COEFFICIENTS[0]
    for step in STEPS:
        product = value.double() * f
        value = ((product.float() if step == rounded_twice else product).double() + COEFFICIENTS[step]).float()
    return torch.ldexp(value, n)


@functools.cache
def telling_logits():
    """Beside a largest logit of 0: for each step of Horner's rule one whose weight changes if that step rounds twice,
    behind two whose weights lie half-way between integers, the nearest even one below the first and above the second.
    """
    x = torch.arange(-11.5, -11.25, 2**-10)
    unrounded = contract.exp2(x * LOG2_E).double() * 2**contract.WEIGHT_BITS
    assert unrounded.min() > 2**22  # up to 2**23 float32 holds halves
    assert unrounded.max() < 2**23
    halves = [x[unrounded % 2 == rest][0] for rest in (0.5, 1.5)]
    # All float32 of an interval. There f is near -1/2, so that the most of an early step's rounding reaches the weight.
    x = torch.arange(-11 * 2**20, -21 * 2**19) / 2**25
    t = x * LOG2_E
    once = contract.exp2(t)
    return torch.stack([*halves, *(x[exp2_rounding_twice(t, step) != once][0] for step in STEPS)])


@functools.cache
def telling_chunk():
    """A chunk whose weight beside that of a chunk with logit 0 changes if product and rounding are contracted."""
    x = torch.arange(-1023, 1) / 1024  # multiples of 2**-10, whose differences stay exact when they are shifted
    total = int((contract.exp2(x * LOG2_E).double() * 2**contract.WEIGHT_BITS).round().sum())
    for shift in torch.arange(-2, -1, 2**-10):
        factor = contract.exp2(shift * LOG2_E).item()
        if round(float(total) * factor) != round(total * Fraction(factor)):
            return x + shift
    raise AssertionError("no chunk tells")


def row(name):
    """The largest logit comes last: a fault moves the end of an interval by the change of the weights below it, less
    their share of the change of the sum, and below the largest these hardly cancel.
    """
    short = torch.cat([telling_logits(), torch.zeros(1)])
    if name == "short":
        return short
    return torch.cat([telling_chunk(), torch.full((27,), -0.5), short])  # across an end of the kernel's groups of 32


def boundaries(x, monkeypatch):
    """Uniforms for the chunk and for the element, and the index that they draw: at both ends of each chunk, and of the
    last chunk's telling logits; of several chunks at a third of these, for each is a launch.
    """
    chunk_weight, elements = weights(x, monkeypatch)
    chunk_ends = list(edges(chunk_weight.tolist()))
    for k, u in chunk_ends:
        yield (u, 0), contract.CHUNK * k
    last, u = chunk_ends[-1]
    ends = list(edges(elements[last].tolist()))[-2 * len(row("short")) :]
    for i, v in ends[:: 1 if last == 0 else 3]:
        yield (u, v), contract.CHUNK * last + i


def draw(device, x, uniforms, dense):
    at = counter_for(*uniforms, SEED)
    operands = x[None], seed(SEED), None, *(ctypes.c_int64(at[name]).value for name in ("offset", "row_offset"))
    index = device.sample_dense(*operands)[2] if dense else device.sample(*operands)
    return index.item()


# The row, and whether a one-hot is wanted.
KERNELS = {"short": ("short", False), "long": ("two chunks", False), "dense": ("two chunks", True)}


class DrawsAtBoundaries:
    @pytest.mark.parametrize("kernel", KERNELS)
    def test_both_ends_of_intervals(self, executed, kernel, monkeypatch):
        name, dense = KERNELS[kernel]
        x = row(name)
        with executed() as device:
            for uniforms, index in boundaries(x, monkeypatch):
                assert draw(device, x, uniforms, dense) == index


def assert_a_draw_is_wrong(executed, kernel, monkeypatch, **options):
    """At some boundary, under options that plant a fault."""
    name, dense = KERNELS[kernel]
    x = row(name)
    with executed(**options) as device:
        assert any(draw(device, x, uniforms, dense) != index for uniforms, index in boundaries(x, monkeypatch))
