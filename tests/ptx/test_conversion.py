"""`cvt` against exact rounding."""

from fractions import Fraction

import hypothesis.extra.numpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import exact
from .assembly import evaluate
from .floats import narrow, widen
from .test_floating_point import CARRIERS, edges, same
from .test_integers import TYPES as INTEGERS
from .test_integers import edges as integer_edges
from .test_integers import wrapped
from .types import TYPES

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, about infinities and NaN

BITS = {"f16": np.uint16, "bf16": np.uint16, "f32": np.float32, "f64": np.float64, "tf32": np.uint32}
INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def all_rounded(values, name, mode):
    """Float64 values in the format, by exact arithmetic; zeros, infinities and NaN stay."""
    exactly = [exact.rounded(Fraction(v), name, mode) if np.isfinite(v) and v else v for v in values.tolist()]
    return np.array(exactly, np.float64)


def random_floats(source):
    """Bit patterns of all kinds, among them middles between neighbours of the narrower formats."""
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**63, 3000, dtype=np.uint64) * np.uint64(2)
    if source == "f64":
        values = np.concatenate([bits.view(np.float64), random.standard_normal(1000)])
        middles = (
            random.standard_normal(500).astype(np.float32).view(np.uint32).astype(np.uint64) << np.uint64(32)
        ).view(np.float64)
        return np.concatenate([values, middles, edges("f64"), edges("f32").astype(np.float64) * (1 + 2.0**-40)])
    values = (bits >> np.uint64(32)).astype(np.uint32)
    return np.concatenate([values, values & np.uint32(0xFFFF8000), values & np.uint32(0xFFFFF000)]).view(np.float32)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize(
    ("target", "source"),
    [("f32", "f64"), ("f16", "f64"), ("bf16", "f64"), ("f16", "f32"), ("bf16", "f32")],
)
def test_float_to_narrower_float(target, source, mode):
    values = random_floats(source)
    found = evaluate(f"cvt.{mode}.{target}.{source} {{d}}, {{a}};", CARRIERS[target], values)
    assert same(found, all_rounded(values.astype(np.float64), target, mode), target)


@pytest.mark.parametrize("mode", ["rna", "rn"])
def test_float_to_tf32(mode):
    values = random_floats("f32")
    values = values[np.isfinite(values)]
    found = evaluate(f"cvt.{mode}.tf32.f32 {{d}}, {{a}};", np.uint32, values).view(np.float32)
    assert (found == all_rounded(values.astype(np.float64), "tf32", mode)).all()


@pytest.mark.parametrize(("target", "source"), [("f32", "f16"), ("f32", "bf16"), ("f64", "f32"), ("f64", "f16")])
def test_float_to_wider_float_is_exact(target, source):
    values = np.arange(2**16, dtype=np.uint16).view(CARRIERS[source]) if source != "f32" else random_floats("f32")
    found = evaluate(f"cvt.{target}.{source} {{d}}, {{a}};", CARRIERS[target], values)
    assert same(found, widen(values, TYPES[source]).astype(np.float64), target)


@pytest.mark.parametrize("target", ["f16x2", "bf16x2"])
@pytest.mark.parametrize("modifiers", ["rn", "rz", "rn.relu"])
def test_two_floats_to_a_pair(target, modifiers):
    a, b = edges("f32"), edges("f32")[::-1].copy()
    found = evaluate(f"cvt.{modifiers}.{target}.f32 {{d}}, {{a}}, {{b}};", np.uint32, a, b)
    element = target.removesuffix("x2")
    carrier = CARRIERS[element]
    for half, values in ((found >> np.uint32(16), a), (found, b)):
        values = np.where(values <= 0, 0, values) if "relu" in modifiers else values
        expected = all_rounded(values.astype(np.float64), element, modifiers[:2])
        assert same(half.astype(np.uint16).view(carrier), expected, element)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("source", CARRIERS)
@pytest.mark.parametrize("mode", INTEGRAL)
def test_float_to_integer_stays_in_range(name, source, mode):
    values = np.concatenate([edges(source), narrow(np.arange(-20.0, 20) / 4, TYPES[source])])
    dtype = INTEGERS[name]
    limits = np.iinfo(dtype)
    of_nan = 0
    if source == "f64" or dtype.itemsize == 8:
        of_nan = limits.min if limits.min else 1 << limits.bits - 1
    expected = []
    for value in widen(values, TYPES[source]).astype(np.float64):
        integral = INTEGRAL[mode](value)
        if np.isfinite(integral):
            expected.append(min(max(int(integral), limits.min), limits.max))
        else:
            expected.append(of_nan if np.isnan(value) else limits.max if value > 0 else limits.min)
    assert evaluate(f"cvt.{mode}.{name}.{source} {{d}}, {{a}};", dtype, values).tolist() == expected


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("target", CARRIERS)
def test_integer_to_float(name, target):
    random = np.random.default_rng(0).integers(0, 2**63, 500, dtype=np.uint64)
    values = np.concatenate([integer_edges(INTEGERS[name]), random.astype(INTEGERS[name])])
    for mode in ("rn", "rz", "rm", "rp"):
        if mode != "rn" and target == "f64" and values.itemsize == 8:
            continue
        expected = [exact.rounded(Fraction(value), target, mode) if value else 0.0 for value in values.tolist()]
        found = evaluate(f"cvt.{mode}.{target}.{name} {{d}}, {{a}};", CARRIERS[target], values)
        assert same(found, np.array(expected), target), mode


@pytest.mark.parametrize("target", INTEGERS)
@pytest.mark.parametrize("source", INTEGERS)
def test_integer_to_integer(target, source):
    values, dtype = integer_edges(INTEGERS[source]), INTEGERS[target]
    found = evaluate(f"cvt.{target}.{source} {{d}}, {{a}};", dtype, values)
    assert (found == wrapped(values.astype(object), dtype)).all()
    limits = np.iinfo(dtype)
    clamped = [min(max(value, limits.min), limits.max) for value in values.tolist()]
    assert evaluate(f"cvt.sat.{target}.{source} {{d}}, {{a}};", dtype, values).tolist() == clamped


def test_bytes_are_extended_to_the_register():
    values = np.array([0x12345680, 0x0000007F, 0xFFFFFFFF], np.uint32)
    assert evaluate("cvt.s32.s8 {d}, {a};", np.int32, values).tolist() == [-128, 127, -1]
    assert evaluate("cvt.u32.u8 {d}, {a};", np.uint32, values).tolist() == [128, 127, 255]
    assert evaluate("cvt.s8.s32 {d}, {a};", np.int32, values).tolist() == [-128, 127, -1]
    assert evaluate("cvt.u8.u32 {d}, {a};", np.uint32, values).tolist() == [128, 127, 255]


@pytest.mark.parametrize("mode", INTEGRAL)
def test_rounding_to_integral_floats(mode):
    values = np.concatenate([edges("f32"), np.arange(-20, 20, dtype=np.float32) / 4])
    found = evaluate(f"cvt.{mode}.f32.f32 {{d}}, {{a}};", np.float32, values)
    assert same(found, INTEGRAL[mode](values.astype(np.float64)), "f32")


def test_saturation_and_flushing():
    values = np.float32([-1, -0.0, 0.25, 7, np.nan, np.inf, 2.0**-130])
    assert evaluate("cvt.sat.f32.f32 {d}, {a};", np.float32, values).tolist() == [0, 0, 0.25, 1, 0, 1, 2.0**-130]
    assert evaluate("cvt.ftz.sat.f32.f32 {d}, {a};", np.float32, values)[-1] == 0
    assert evaluate("cvt.rn.ftz.f32.f64 {d}, {a};", np.float32, np.array([-(2.0**-130)])).tolist() == [0]
    assert evaluate("cvt.rpi.ftz.s32.f32 {d}, {a};", np.int32, values[-1:]).tolist() == [0]
    assert evaluate("cvt.rpi.s32.f32 {d}, {a};", np.int32, values[-1:]).tolist() == [1]


@given(hypothesis.extra.numpy.arrays(np.float64, 16, elements=st.floats()))
def test_any_float64_to_bfloat16(values):
    found = evaluate("cvt.rn.bf16.f64 {d}, {a};", np.uint16, values)
    assert same(found, all_rounded(values, "bf16", "rn"), "bf16")
